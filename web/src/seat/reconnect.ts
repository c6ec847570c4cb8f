/**
 * When to connect again: the state of one long-lived connection as a pure machine. The driver (`link.ts`) does what
 * each state says; only it knows sockets and clocks.
 */

export type LinkState =
  /** Connecting, after `attempt` failures in a row. */
  | { phase: "connecting"; attempt: number }
  /** Open since `since` (ms); `attempt` failures went before and are forgiven once it has held for a while. */
  | { phase: "open"; attempt: number; since: number }
  /** Lost; to be tried again after `delay` ms. */
  | { phase: "waiting"; attempt: number; delay: number }
  /** Not to be opened again: the shell ended or the view is closed. */
  | { phase: "over"; why: "exit" | "closed" };

export type LinkEvent =
  | { type: "opened"; now: number }
  | { type: "lost"; now: number; random: number }
  /** The delay has passed, the network came back or the page became visible. */
  | { type: "retry" }
  | { type: "exit" }
  | { type: "close" };

export const FIRST_DELAY = 250;
export const LONGEST_DELAY = 8000;
/** A connection that held this long (ms) starts the backoff afresh. */
export const STABLE = 5000;

export const begin: LinkState = { phase: "connecting", attempt: 0 };

export function step(state: LinkState, event: LinkEvent): LinkState {
  if (state.phase === "over") return state;
  switch (event.type) {
    case "exit":
      return { phase: "over", why: "exit" };
    case "close":
      return { phase: "over", why: "closed" };
    case "opened":
      return state.phase === "connecting" ? { phase: "open", attempt: state.attempt, since: event.now } : state;
    case "lost": {
      if (state.phase === "waiting") return state;
      const stable = state.phase === "open" && event.now - state.since >= STABLE;
      const attempt = stable ? 1 : state.attempt + 1;
      return { phase: "waiting", attempt, delay: delayOf(attempt, event.random) };
    }
    case "retry":
      return state.phase === "waiting" ? { phase: "connecting", attempt: state.attempt } : state;
  }
}

/** Doubles up to the longest, spread over its upper half so that a class does not come back in one instant. */
function delayOf(attempt: number, random: number): number {
  const full = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(attempt - 1, 10));
  return Math.round(full * (0.5 + random / 2));
}
