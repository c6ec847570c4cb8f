import type { SeatAccess } from "./access";

export interface TerminalInfo {
  id: number;
  status: "running" | "exited";
  code?: number;
  viewers: number;
}

export async function listTerminals(access: SeatAccess): Promise<TerminalInfo[]> {
  return (await access.json<{ terminals: TerminalInfo[] }>("/terminals")).terminals;
}

export async function newTerminal(access: SeatAccess): Promise<TerminalInfo> {
  const body = await access.json<{ terminal: TerminalInfo }>("/terminals", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  return body.terminal;
}

export async function closeTerminal(access: SeatAccess, id: number): Promise<void> {
  await access.fetch(`/terminals/${id}`, { method: "DELETE" });
}
