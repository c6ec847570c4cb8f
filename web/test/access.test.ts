import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SeatAccess, type Grant } from "../src/seat/access";

const grant = (token: string, seconds = 300): Grant => ({
  token,
  endpoint: "http://localhost:3000/proxy/w/1",
  expires_at: new Date(Date.now() + seconds * 1000).toISOString(),
});
const shown: { path: string; token: string }[] = [];
let refuse: (path: string, token: string) => boolean;

beforeEach(() => {
  vi.useFakeTimers();
  shown.length = 0;
  refuse = () => false;
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    const path = url.replace("http://localhost:3000/proxy/w/1", "");
    const token = (new Headers(init.headers).get("authorization") ?? "").replace("Bearer ", "");
    shown.push({ path, token });
    const status = refuse(path, token) ? 401 : 200;
    return Promise.resolve(new Response(status === 200 ? "{}" : '{"error":{"code":"UNAUTHORIZED","message":"no"}}', { status }));
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("SeatAccess", () => {
  it("renews at half life and shows the new token to the gateway", async () => {
    const renew = vi.fn(() => Promise.resolve(grant("two")));
    const access = new SeatAccess(grant("one"), renew);
    await vi.advanceTimersByTimeAsync(149_000);
    expect(renew).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(2000);
    expect(renew).toHaveBeenCalledTimes(1);
    expect(shown).toContainEqual({ path: "/auth", token: "two" });
    expect(await access.token()).toBe("two");
    access.stop();
  });

  it("never puts the token into a URL", async () => {
    const access = new SeatAccess(grant("one"), () => Promise.resolve(grant("two")));
    await access.fetch("/files?path=");
    expect(shown.every(({ path }) => !path.includes("one"))).toBe(true);
    access.stop();
  });

  it("renews once when a token is refused, however many calls wait", async () => {
    refuse = (path, token) => path !== "/auth" && token === "one";
    const renew = vi.fn(() => Promise.resolve(grant("two")));
    const access = new SeatAccess(grant("one"), renew);
    await Promise.all([access.fetch("/a"), access.fetch("/b"), access.fetch("/c")]);
    expect(renew).toHaveBeenCalledTimes(1);
    access.stop();
  });

  it("keeps trying to renew, and uses what still holds meanwhile", async () => {
    const renew = vi.fn(() => Promise.reject(new Error("down")));
    const access = new SeatAccess(grant("one"), renew);
    await vi.advanceTimersByTimeAsync(160_000);
    expect(renew.mock.calls.length).toBeGreaterThan(1);
    expect(await access.token()).toBe("one");
    await vi.advanceTimersByTimeAsync(150_000);
    await expect(access.token()).rejects.toThrow("down");
    access.stop();
  });

  it("is silent once it is stopped", async () => {
    const renew = vi.fn(() => Promise.resolve(grant("two")));
    new SeatAccess(grant("one"), renew).stop();
    await vi.advanceTimersByTimeAsync(600_000);
    expect(renew).not.toHaveBeenCalled();
  });
});
