import { json } from "./http";
import type { Joined, JoinRequest, SessionView, WaitingInLine } from "./types";

/** Takes a seat, or a place in line (HTTP 202). Safe to repeat with the same `client_id`. */
export async function join(body: JoinRequest): Promise<Joined | WaitingInLine> {
  return json<Joined | WaitingInLine>("/api/join", { method: "POST", body });
}

/** How the session is, with a fresh seat token when it has a seat that answers. */
export async function getSession(sessionCode: string): Promise<SessionView> {
  return json<SessionView>(`/api/session/${encodeURIComponent(sessionCode)}`);
}
