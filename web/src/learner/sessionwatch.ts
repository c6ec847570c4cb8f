import { ApiError } from "../api/error";
import { getSession } from "../api/session";
import type { SessionView } from "../api/types";
import type { Grant } from "../seat/access";

/** What the page knows about a session. */
export type Watched =
  | { known: "not yet"; trouble: string | null }
  /**
   * `trouble`: why the last look failed, if it did; `view` is then the one before. `gone`: the server has forgotten the
   * session since, with its workshop.
   */
  | { known: "yes"; view: SessionView; trouble: string | null; gone?: true }
  /** The server knows no such session. */
  | { known: "never" };

/** What a look at the session brought. */
export type Look = { ok: true; view: SessionView } | { ok: false; error: ApiError };

/** The next state after a look. */
export function after(state: Watched, look: Look): Watched {
  if (look.ok) return { known: "yes", view: look.view, trouble: null };
  const { status, code, message } = look.error;
  if (status === 404 || status === 400 || status === 422) {
    if (state.known !== "yes") return { known: "never" };
    const reason = state.view.status === "ended" && state.view.reason ? state.view.reason : "The workshop has ended and everything in it has been removed.";
    return { known: "yes", view: { ...state.view, status: "ended", reason }, trouble: null, gone: true };
  }
  if (code === "ENDED" && state.known === "yes") {
    return { known: "yes", view: { ...state.view, status: "ended", reason: message }, trouble: null };
  }
  if (state.known === "never") return state;
  return { ...state, trouble: message };
}

/** How long to wait after each answer, in milliseconds. A stopped workshop ends sessions and may go on later. */
const PATIENCE = { waiting: 1000, unreachable: 1500, ready: 12_000, ended: 8000 };
const AFTER_TROUBLE = 2000;

/** Milliseconds until the next look; null when there is nothing more to learn. `random` in 0..1 spreads a class. */
export function nextLook(state: Watched, random: number): number | null {
  if (state.known === "never" || (state.known === "yes" && state.gone)) return null;
  const base = state.trouble !== null ? AFTER_TROUBLE : PATIENCE[state.known === "yes" ? state.view.status : "waiting"];
  return Math.round(base * (0.8 + 0.4 * random));
}

/** Looks at a session again and again, and right away when poked. */
export class SessionWatch {
  state: Watched = { known: "not yet", trouble: null };
  private timer: ReturnType<typeof setTimeout> | undefined;
  private looking: Promise<Look> | undefined;
  private stopped = false;
  private readonly wake = () => {
    if (document.visibilityState === "visible") this.poke();
  };

  constructor(
    private readonly sessionCode: string,
    private readonly changed: (state: Watched) => void,
  ) {
    document.addEventListener("visibilitychange", this.wake);
    addEventListener("online", this.wake);
    this.poke();
  }

  /** Looks now. */
  poke(): void {
    void this.look();
  }

  /** A fresh seat token; throws the reason when there is none to be had now. */
  async grant(): Promise<Grant> {
    const look = await this.look();
    if (!look.ok) throw look.error;
    const { token, endpoint, expires_at, reason, status } = look.view;
    if (!token || !endpoint || !expires_at) throw new ApiError(409, status.toUpperCase(), reason ?? "The seat is not ready.");
    return { token, endpoint, expires_at };
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.wake);
    removeEventListener("online", this.wake);
  }

  private look(): Promise<Look> {
    this.looking ??= getSession(this.sessionCode)
      .then<Look, Look>(
        (view) => ({ ok: true, view }),
        (error: unknown) => ({ ok: false, error: error instanceof ApiError ? error : new ApiError(0, "NETWORK", String(error)) }),
      )
      .then((look) => {
        this.looking = undefined;
        if (this.stopped) return look;
        this.state = after(this.state, look);
        this.changed(this.state);
        clearTimeout(this.timer);
        const delay = nextLook(this.state, Math.random());
        if (delay !== null) this.timer = setTimeout(() => this.poke(), delay);
        return look;
      });
    return this.looking;
  }
}
