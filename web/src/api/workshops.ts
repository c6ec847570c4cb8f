import { json, send } from "./http";
import type { CreateWorkshop, RuntimeView, SeatToken, SeatView, WorkshopView } from "./types";

const at = (id: string, rest = "") => `/api/workshops/${encodeURIComponent(id)}${rest}`;

export async function listWorkshops(signal?: AbortSignal): Promise<WorkshopView[]> {
  return (await json<{ workshops: WorkshopView[] }>("/api/workshops", signal ? { signal } : {})).workshops;
}

export async function createWorkshop(body: CreateWorkshop): Promise<WorkshopView> {
  return (await json<{ workshop: WorkshopView }>("/api/workshops", { method: "POST", body })).workshop;
}

export async function getWorkshop(id: string): Promise<WorkshopView> {
  return (await json<{ workshop: WorkshopView }>(at(id))).workshop;
}

export async function getSeats(id: string): Promise<SeatView[]> {
  return (await json<{ seats: SeatView[] }>(at(id, "/seats"))).seats;
}

/** Where the workshop's events stream from. */
export const eventsPath = (id: string) => at(id, "/events");

export async function startWorkshop(id: string): Promise<void> {
  await send(at(id, "/start"), { method: "POST" });
}

export async function stopWorkshop(id: string): Promise<void> {
  await send(at(id, "/stop"), { method: "POST" });
}

export async function extendWorkshop(id: string, minutes: number): Promise<void> {
  await send(at(id, "/extend"), { method: "POST", body: { minutes } });
}

export async function lockWorkshop(id: string, locked: boolean): Promise<void> {
  await send(at(id, "/lock"), { method: "POST", body: { locked } });
}

/** Asks for the end of everything; the workshop is gone when `getWorkshop` says `NOT_FOUND`. */
export async function deleteWorkshop(id: string): Promise<void> {
  await send(at(id), { method: "DELETE" });
}

export async function resetSeat(id: string, seat: number): Promise<void> {
  await send(at(id, `/seats/${seat}/reset`), { method: "POST" });
}

export async function evictSeat(id: string, seat: number): Promise<void> {
  await send(at(id, `/seats/${seat}/evict`), { method: "POST" });
}

/** A token for an instructor to look into a seat. */
export async function seatToken(id: string, seat: number): Promise<SeatToken> {
  return json<SeatToken>(at(id, `/seats/${seat}/token`), { method: "POST" });
}

export async function listRuntimes(): Promise<RuntimeView[]> {
  return (await json<{ runtimes: RuntimeView[] }>("/api/runtimes")).runtimes;
}
