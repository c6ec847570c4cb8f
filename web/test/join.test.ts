import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError } from "../src/api/error";
import { currentSession, forget, joinCodeOf, normaliseCode, prettyCode, remembered } from "../src/learner/memory";
import { checkCode, comeBack, joinWorkshop, refusal } from "../src/start/joinflow";

const answer = (status: number, body: unknown) => new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
});
afterEach(() => vi.unstubAllGlobals());

describe("join codes", () => {
  it("are compared without case, hyphens and spaces", () => {
    expect(normaliseCode(" k7qm-4xtp ")).toBe("K7QM4XTP");
    expect(normaliseCode("K7QM\u20114XTP\n")).toBe("K7QM4XTP");
    expect(normaliseCode("k7qm \u2013 4xtp")).toBe("K7QM4XTP");
    expect(prettyCode("k7qm4xtp")).toBe("K7QM-4XTP");
    expect(checkCode("k7 qm 4xtp")).toBeNull();
  });

  it("are checked with a sentence that says what to do", () => {
    expect(checkCode("")).toContain("Type the code");
    expect(checkCode("K7QM")).toContain("8 characters");
    expect(checkCode("K7QM-4XT0")).toContain("never contain 0");
    expect(checkCode("KKKK-KKKK-KKKK-KKKK-KKKK")).toContain("session code");
  });
});

describe("joining", () => {
  const joined = { status: "ready", session_code: "S-CODE", workshop_name: "W", token: "t", endpoint: "/e", seat: 1 };

  it("sends the same client id again, so that a repeated join costs no second seat", async () => {
    const calls: Record<string, unknown>[] = [];
    vi.stubGlobal("fetch", (_path: string, init: RequestInit) => {
      calls.push(JSON.parse(String(init.body)) as Record<string, unknown>);
      return Promise.resolve(answer(200, joined));
    });
    expect(await joinWorkshop("K7QM-4XTP", " Ada ")).toBeNull();
    expect(await joinWorkshop("k7qm4xtp", "")).toBeNull();
    expect(calls[0]).toMatchObject({ code: "K7QM-4XTP", name: "Ada" });
    expect(calls[1]?.["client_id"]).toBe(calls[0]?.["client_id"]);
    expect(calls[0]?.["client_id"]).toMatch(/^[A-Za-z0-9_-]{16,128}$/);
    expect(calls[1]).not.toHaveProperty("name");
    expect(currentSession()).toBe("S-CODE");
    expect(joinCodeOf("S-CODE")).toBe("K7QM4XTP");
  });

  it("goes on to the learner page with a place in line as well", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(answer(202, { status: "waiting", place: 3, session_code: "S2", workshop_name: "W" })));
    expect(await joinWorkshop("K7QM-4XTP", "")).toBeNull();
    expect(currentSession()).toBe("S2");
  });

  it.each([
    [404, "NOT_FOUND", "code"],
    [409, "NO_SEATS", "form"],
    [403, "JOINING_LOCKED", "form"],
    [409, "NOT_RUNNING", "form"],
    [410, "ENDED", "form"],
  ])("says why not: %i %s", async (status, code, field) => {
    vi.stubGlobal("fetch", () => Promise.resolve(answer(status, { error: { code, message: "The server's sentence." } })));
    const problem = await joinWorkshop("K7QM-4XTP", "");
    expect(problem?.field).toBe(field);
    expect(problem?.message.length).toBeGreaterThan(10);
    expect(currentSession()).toBeNull();
  });

  it("says that the server can't be reached", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("fetch failed")));
    expect((await joinWorkshop("K7QM-4XTP", ""))?.message).toContain("can't be reached");
  });

  it("passes the server's own sentence on where it knows more", () => {
    expect(refusal(new ApiError(409, "NOT_RUNNING", "It starts at nine.")).message).toBe("It starts at nine.");
    expect(refusal(new ApiError(422, "INVALID_FIELD", "name: must have at most 60 characters")).field).toBe("form");
  });
});

describe("coming back", () => {
  const code = "abcd efgh jkmn pqrt wxy3";

  it("asks with the code as it is written on the server", async () => {
    let path = "";
    vi.stubGlobal("fetch", (to: string) => {
      path = to;
      return Promise.resolve(answer(200, { status: "ready", workshop_name: "W" }));
    });
    expect(await comeBack(code)).toBeNull();
    expect(path).toBe("/api/session/ABCD-EFGH-JKMN-PQRT-WXY3");
    expect(currentSession()).toBe("ABCD-EFGH-JKMN-PQRT-WXY3");
  });

  it("says why a session is over", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(answer(200, { status: "ended", reason: "The workshop has ended." })));
    expect((await comeBack(code))?.message).toBe("The workshop has ended.");
    expect(currentSession()).toBeNull();
  });
});

describe("memory", () => {
  it("forgets a session but not who this browser is: a session that lives after all must not cost a second seat", () => {
    const before = remembered("K7QM4XTP").clientId;
    localStorage.setItem("clarateach.sessions", JSON.stringify({ K7QM4XTP: { clientId: before, sessionCode: "S", at: 1 } }));
    localStorage.setItem("clarateach.current", JSON.stringify("S"));
    forget("S");
    expect(currentSession()).toBeNull();
    expect(remembered("K7QM4XTP").clientId).toBe(before);
    expect(joinCodeOf("S")).toBeUndefined();
  });

  it("survives rubbish in storage", () => {
    localStorage.setItem("clarateach.sessions", "{");
    expect(remembered("K7QM4XTP").clientId).toMatch(/^[\w-]{16,}$/);
  });
});
