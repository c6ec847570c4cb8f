import { describe, expect, it } from "vitest";
import { ApiError } from "../src/api/error";
import type { SessionView } from "../src/api/types";
import { after, nextLook, type Watched } from "../src/learner/sessionwatch";

const view = (part: Partial<SessionView>): SessionView => ({
  status: "ready",
  name: null,
  workshop_id: "w1",
  workshop_name: "W",
  ends_at: null,
  ...part,
});
const unknown: Watched = { known: "not yet", trouble: null };
const known = (part: Partial<SessionView>): Watched => ({ known: "yes", view: view(part), trouble: null });
const failed = (status: number, code: string) => ({ ok: false, error: new ApiError(status, code, "why") }) as const;

describe("watching a session", () => {
  it("asks every second in line, seldom when ready or ended, and never again when it is gone", () => {
    expect(nextLook(known({ status: "waiting" }), 0.5)).toBe(1000);
    expect(nextLook(known({ status: "ready" }), 0.5)).toBeGreaterThan(5000);
    expect(nextLook(known({ status: "ended" }), 0.5)).toBeGreaterThan(5000);
    expect(nextLook(after(known({ status: "ended" }), failed(404, "NOT_FOUND")), 0.5)).toBeNull();
    expect(nextLook({ known: "never" }, 0.5)).toBeNull();
  });

  it("keeps the last view when the server can't be reached, says so and asks soon", () => {
    const state = after(known({ seat: 3 }), failed(0, "NETWORK"));
    expect(state).toMatchObject({ known: "yes", trouble: "why", view: { seat: 3 } });
    expect(nextLook(state, 0.5)).toBe(2000);
    expect(after(state, { ok: true, view: view({}) })).toMatchObject({ trouble: null });
  });

  it("knows a session that does not exist from one that can't be asked about", () => {
    expect(after(unknown, failed(404, "NOT_FOUND"))).toEqual({ known: "never" });
    expect(after(unknown, failed(503, "STORE_UNAVAILABLE"))).toMatchObject({ known: "not yet", trouble: "why" });
    expect(after(unknown, failed(429, "TOO_MANY_ATTEMPTS"))).toMatchObject({ known: "not yet" });
  });

  it("tells why it ended, also after the server has forgotten it", () => {
    const gone = after(known({ status: "ended", reason: "The instructor has ended it." }), failed(404, "NOT_FOUND"));
    expect(gone).toMatchObject({ known: "yes", gone: true, view: { status: "ended", reason: "The instructor has ended it." } });
    expect(after(known({}), failed(404, "NOT_FOUND"))).toMatchObject({ gone: true, view: { status: "ended" } });
  });

  it("comes back when a stopped workshop goes on", () => {
    expect(after(known({ status: "ended" }), { ok: true, view: view({}) })).toEqual(known({}));
  });

  it("passes an ENDED refusal on", () => {
    expect(after(known({}), failed(410, "ENDED"))).toMatchObject({ view: { status: "ended", reason: "why" } });
  });
});
