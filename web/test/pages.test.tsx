import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { noteServerDate, serverNow } from "../src/api/clock";
import { errorOf } from "../src/api/error";
import { parseRoute } from "../src/router";
import { StartPage } from "../src/start/StartPage";
import { ago, span } from "../src/ui/time";

describe("routes", () => {
  it.each([
    ["/", { page: "start", code: "" }],
    ["/join/K7QM-4XTP", { page: "start", code: "K7QM-4XTP" }],
    ["/learn", { page: "learn" }],
    ["/learn/", { page: "learn" }],
    ["/instructor", { page: "instructor" }],
    ["/instructor/workshops/wabc", { page: "workshop", id: "wabc" }],
    ["/admin", { page: "admin" }],
    ["/elsewhere", { page: "nowhere" }],
    ["/join/%E0%A4%A", { page: "start", code: "%E0%A4%A" }],
  ])("%s", (path, route) => expect(parseRoute(path)).toEqual(route));
});

describe("time", () => {
  it("is told in words", () => {
    expect(span(4 * 60_000 + 9000)).toBe("4:09");
    expect(span(43 * 60_000)).toBe("43 min");
    expect(span(125 * 60_000)).toBe("2 h 05 min");
    expect(span(-5)).toBe("0:00");
    expect(ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:03:00Z"))).toBe("3 min ago");
  });

  it("is the server's, not this machine's", () => {
    const now = Date.now();
    noteServerDate(new Date(now + 3_600_000).toUTCString(), now);
    expect(Math.abs(serverNow() - now - 3_600_000)).toBeLessThan(1500);
    noteServerDate(new Date(now).toUTCString(), now);
    expect(Math.abs(serverNow() - now)).toBeLessThan(1500);
  });
});

describe("errors", () => {
  it("keep code and sentence of the server", async () => {
    const error = await errorOf(new Response('{"error":{"code":"NO_SEATS","message":"Full."}}', { status: 409 }));
    expect(error).toMatchObject({ code: "NO_SEATS", message: "Full.", status: 409 });
  });

  it("make a sentence of a proxy's page", async () => {
    const error = await errorOf(new Response("<html>Bad gateway</html>", { status: 502 }));
    expect(error.message).toContain("502");
    expect(error.temporary).toBe(true);
  });
});

describe("the start page", () => {
  const root = document.createElement("div");
  const settle = () => new Promise((resolve) => setTimeout(resolve, 20));
  const type = (field: HTMLInputElement, value: string) => {
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  beforeEach(() => {
    localStorage.clear();
    document.body.append(root);
  });
  afterEach(() => {
    render(null, root);
    vi.unstubAllGlobals();
  });

  it("fills in the code of a link", () => {
    render(<StartPage code="k7qm4xtp" />, root);
    expect(root.querySelector<HTMLInputElement>("#join-code")?.value).toBe("K7QM-4XTP");
  });

  it("puts the hyphen in as the code is typed", async () => {
    render(<StartPage code="" />, root);
    const field = root.querySelector<HTMLInputElement>("#join-code");
    if (!field) throw new Error("no field");
    type(field, "k7qm4xtp");
    await settle();
    expect(field.value).toBe("K7QM-4XTP");
  });

  it("shows a refusal as text, whatever is in it", async () => {
    const message = '<img src=x onerror="alert(1)">';
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(JSON.stringify({ error: { code: "NOT_RUNNING", message } }), { status: 409 })));
    render(<StartPage code="K7QM-4XTP" />, root);
    root.querySelector("form")?.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }));
    await settle();
    expect([...root.querySelectorAll("[role=alert]")].map((alert) => alert.textContent).filter(Boolean)).toEqual([message]);
    expect(root.querySelector("img")).toBeNull();
  });
});
