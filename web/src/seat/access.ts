import { serverNow } from "../api/clock";
import { ApiError, errorOf, networkError } from "../api/error";

/** A seat token and where it is good. */
export interface Grant {
  token: string;
  /** Base URL of the seat's workspace. */
  endpoint: string;
  /** RFC 3339. */
  expires_at: string;
}

/** The share of a token's life after which a new one is fetched. */
const RENEW_AFTER = 0.5;

/** How long to wait before a failed renewal is tried again, in milliseconds. */
const RETRY = 3000;

/**
 * Keeps a seat token fresh and sends calls with it. A gateway's lease for the session is extended whenever a newer
 * token is shown, so each renewal is also shown to `POST {endpoint}/auth`, which sets the seat cookie that plain
 * downloads need.
 */
export class SeatAccess {
  /** Whether the seat cookie is set, so that a plain link to the seat works. */
  cookie = false;
  private grant: Grant;
  private received: number;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private renewing: Promise<string> | undefined;
  private stopped = false;

  constructor(
    grant: Grant,
    private readonly renew: () => Promise<Grant>,
  ) {
    this.grant = grant;
    this.received = serverNow();
    this.schedule();
    void this.show();
  }

  get endpoint(): string {
    return this.grant.endpoint.replace(/\/+$/, "");
  }

  /** A token in the first half of its life, fetched if need be; an older one that still holds if none can be had. */
  async token(): Promise<string> {
    if (serverNow() < this.renewAt()) return this.grant.token;
    try {
      return await this.renewNow();
    } catch (error) {
      if (serverNow() < Date.parse(this.grant.expires_at)) return this.grant.token;
      throw error;
    }
  }

  /** Takes a token that came with another answer. */
  take(grant: Grant): void {
    if (serverNow() < this.renewAt() && grant.endpoint === this.grant.endpoint) return;
    this.put(grant);
  }

  /** A call to the seat's workspace, `path` starting with `/`; throws an `ApiError` unless the answer is ok. */
  async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const first = await this.attempt(path, init, await this.token());
    if (first.status !== 401) return checked(first);
    // Expired early (a restarted server, a clock that jumped): once more with a new one.
    return checked(await this.attempt(path, init, await this.renewNow()));
  }

  async json<T>(path: string, init: RequestInit = {}): Promise<T> {
    return (await (await this.fetch(path, init)).json()) as T;
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private async attempt(path: string, init: RequestInit, token: string): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("Authorization", `Bearer ${token}`);
    try {
      return await fetch(this.endpoint + path, { cache: "no-store", ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw networkError();
    }
  }

  private renewAt(): number {
    const expires = Date.parse(this.grant.expires_at);
    return this.received + (expires - this.received) * RENEW_AFTER;
  }

  private renewNow(): Promise<string> {
    this.renewing ??= this.renew()
      .then((grant) => {
        this.put(grant);
        return grant.token;
      })
      .finally(() => {
        this.renewing = undefined;
      });
    return this.renewing;
  }

  private put(grant: Grant): void {
    this.grant = grant;
    this.received = serverNow();
    this.schedule();
    void this.show();
  }

  private schedule(): void {
    clearTimeout(this.timer);
    if (this.stopped) return;
    const tick = () => {
      this.renewNow().catch(() => {
        if (!this.stopped) this.timer = setTimeout(tick, RETRY);
      });
    };
    this.timer = setTimeout(tick, Math.max(1000, this.renewAt() - serverNow()));
  }

  private async show(): Promise<void> {
    try {
      const response = await this.attempt("/auth", { method: "POST", credentials: "include" }, this.grant.token);
      this.cookie = response.ok && new URL(this.endpoint, location.href).origin === location.origin;
    } catch {
      // The cookie is a convenience, and any other call extends the lease as well.
    }
  }
}

async function checked(response: Response): Promise<Response> {
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Whether an error says that what was asked for is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}
