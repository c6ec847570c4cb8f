import { subscribe } from "../api/eventstream";
import type { SeatAccess } from "./access";
import type { Listener } from "./ports";

export interface SeatEvents {
  /** Entries or files of these directories changed; everything may have when `overflow`. */
  files(directories: string[], overflow: boolean): void;
  ports(ports: Listener[]): void;
}

/** Follows what changes in a seat, until the returned function is called. */
export function followSeat(access: SeatAccess, on: SeatEvents): () => void {
  return subscribe({
    open: (_lastId, signal) => access.fetch("/events", { signal, headers: { Accept: "text/event-stream" } }),
    // What changed while nobody listened is not told afterwards.
    onOpen: () => on.files([], true),
    onEvent: ({ event, data }) => {
      try {
        const body: unknown = JSON.parse(data);
        if (event === "files") {
          const { directories, overflow } = body as { directories: string[]; overflow?: boolean };
          on.files(directories, overflow === true);
        } else if (event === "ports") {
          on.ports((body as { ports: Listener[] }).ports);
        }
      } catch {
        // An event that can't be understood is no reason to stop listening.
      }
    },
  });
}
