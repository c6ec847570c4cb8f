import type { SeatAccess } from "./access";

export interface Listener {
  port: number;
  address: string;
  /** Whether the gateway would go there. */
  preview: boolean;
}

export async function listPorts(access: SeatAccess): Promise<Listener[]> {
  return (await access.json<{ ports: Listener[] }>("/ports")).ports;
}

/** Where a preview is: an origin of its own that is entered with a capability, or a sandboxed URL under the endpoint. */
export interface Preview {
  id?: string;
  port?: number;
  origin?: string | null;
  capability?: string | null;
  url?: string | null;
}

export async function openPreview(access: SeatAccess, port: number): Promise<Preview> {
  const body = await access.json<{ preview: Preview }>("/previews", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ port }),
  });
  return body.preview;
}
