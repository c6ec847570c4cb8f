import { describe, expect, it } from "vitest";
import { keyBytes, withControl } from "../src/terminal/keys";
import { added, closed, merge } from "../src/terminal/tabs";
import type { TerminalInfo } from "../src/seat/terminals";

const terminal = (id: number): TerminalInfo => ({ id, status: "running", viewers: 0 });

describe("extra keys", () => {
  it("follow the application cursor mode", () => {
    expect(keyBytes("up", false)).toBe("\x1b[A");
    expect(keyBytes("up", true)).toBe("\x1bOA");
    expect(keyBytes("esc", true)).toBe("\x1b");
    expect(keyBytes("tab", false)).toBe("\t");
  });

  it("turn the next character into a control character", () => {
    expect(withControl("c")).toBe("\x03");
    expect(withControl("Z")).toBe("\x1a");
    expect(withControl("[")).toBe("\x1b");
    expect(withControl(" ")).toBe("\0");
    expect(withControl("ab")).toBe("\x01b");
    expect(withControl("é")).toBe("é");
    expect(withControl("")).toBe("");
  });
});

describe("tabs", () => {
  it("take over the seat's list and come back to what was in front", () => {
    const tabs = merge({ ids: [], active: null }, [terminal(1), terminal(2)], 2);
    expect(tabs).toEqual({ ids: [1, 2], active: 2 });
    expect(merge(tabs, [terminal(2), terminal(3)])).toEqual({ ids: [2, 3], active: 2 });
  });

  it("keep the one in front even when the seat forgot it", () => expect(merge({ ids: [1], active: 1 }, [])).toEqual({ ids: [1], active: 1 }));

  it("bring a neighbour to the front when one is closed", () => {
    expect(closed({ ids: [1, 2, 3], active: 2 }, 2)).toEqual({ ids: [1, 3], active: 3 });
    expect(closed({ ids: [1, 2], active: 2 }, 2)).toEqual({ ids: [1], active: 1 });
    expect(closed({ ids: [1], active: 1 }, 1)).toEqual({ ids: [], active: null });
    expect(added({ ids: [1], active: 1 }, 2)).toEqual({ ids: [1, 2], active: 2 });
  });
});
