import { describe, expect, it } from "vitest";
import { begin, FIRST_DELAY, LONGEST_DELAY, STABLE, step, type LinkState } from "../src/seat/reconnect";

const lost = (now = 0, random = 1) => ({ type: "lost", now, random }) as const;

describe("reconnecting", () => {
  it("goes from connecting to open to waiting to connecting", () => {
    let state = step(begin, { type: "opened", now: 0 });
    expect(state.phase).toBe("open");
    state = step(state, lost(10));
    expect(state).toMatchObject({ phase: "waiting", attempt: 1, delay: FIRST_DELAY });
    state = step(state, { type: "retry" });
    expect(state).toEqual({ phase: "connecting", attempt: 1 });
  });

  it("waits longer with every failure, up to the longest, spread by chance", () => {
    let state: LinkState = begin;
    const delays: number[] = [];
    for (let n = 0; n < 12; n += 1) {
      state = step(state, lost());
      if (state.phase === "waiting") delays.push(state.delay);
      state = step(state, { type: "retry" });
    }
    expect(delays[0]).toBe(FIRST_DELAY);
    expect(delays.at(-1)).toBe(LONGEST_DELAY);
    expect([...delays].sort((a, b) => a - b)).toEqual(delays);
    expect(step(begin, lost(0, 0))).toMatchObject({ delay: FIRST_DELAY / 2 });
  });

  it("forgives earlier failures once a connection has held", () => {
    const open = step({ phase: "connecting", attempt: 6 }, { type: "opened", now: 0 });
    expect(step(open, lost(STABLE))).toMatchObject({ attempt: 1 });
    expect(step(open, lost(STABLE - 1))).toMatchObject({ attempt: 7 });
  });

  it("ignores a retry while it is open and a second loss while it waits", () => {
    const open = step(begin, { type: "opened", now: 0 });
    expect(step(open, { type: "retry" })).toBe(open);
    const waiting = step(open, lost());
    expect(step(waiting, lost())).toBe(waiting);
  });

  it("is over after an exit or when it is closed, whatever comes", () => {
    for (const type of ["exit", "close"] as const) {
      const over = step(begin, { type });
      expect(over.phase).toBe("over");
      for (const event of [lost(), { type: "retry" } as const, { type: "opened", now: 0 } as const]) expect(step(over, event)).toBe(over);
    }
  });
});
