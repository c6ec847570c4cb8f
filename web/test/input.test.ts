import { describe, expect, it } from "vitest";
import { InputQueue, KEPT } from "../src/seat/input";

const text = (s: string) => new TextEncoder().encode(s);
const joined = (pieces: { bytes: Uint8Array }[]) => new TextDecoder().decode(new Uint8Array(pieces.flatMap((p) => [...p.bytes])));

describe("InputQueue", () => {
  it("numbers what it sends and forgets what has arrived", () => {
    const queue = new InputQueue();
    queue.add(text("a"));
    queue.add(text("b"));
    expect(queue.take().map((p) => p.n)).toEqual([1, 2]);
    expect(queue.take()).toEqual([]);
    expect(queue.unanswered).toBe(true);
    queue.acknowledge(2);
    expect(queue.unanswered).toBe(false);
  });

  it("sends again after a reconnect exactly what had not been taken", () => {
    const queue = new InputQueue();
    for (const key of "abc") queue.add(text(key));
    queue.take();
    queue.acknowledge(1);
    queue.add(text("d"));
    queue.reconnect(2);
    const again = queue.take();
    expect(joined(again)).toBe("cd");
    expect(again.map((p) => p.n)).toEqual([3, 4]);
  });

  it("sends everything again to a terminal that has taken nothing", () => {
    const queue = new InputQueue();
    queue.add(text("ab"));
    queue.take();
    queue.reconnect(0);
    expect(joined(queue.take())).toBe("ab");
  });

  it("drops what was meant for a terminal that is no more", () => {
    const queue = new InputQueue();
    queue.add(text("rm -rf build\r"));
    queue.take();
    queue.forget();
    queue.reconnect(0);
    expect(queue.take()).toEqual([]);
    expect(queue.unanswered).toBe(false);
  });

  it("cuts a large paste between characters and holds most of it back until acks come", () => {
    const queue = new InputQueue();
    const paste = "é€😀".repeat(100_000);
    expect(queue.add(text(paste))).toBe(true);
    let out = "";
    let rounds = 0;
    for (let pieces = queue.take(); pieces.length > 0; pieces = queue.take()) {
      rounds += 1;
      for (const { bytes } of pieces) {
        const piece = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
        out += piece;
      }
      queue.acknowledge(pieces.at(-1)?.n ?? 0);
    }
    expect(out).toBe(paste);
    expect(rounds).toBeGreaterThan(3);
  });

  it("gets through bytes that are no UTF-8", () => {
    const queue = new InputQueue();
    queue.add(new Uint8Array(50_000).fill(0x80));
    let length = 0;
    for (const { bytes } of queue.take()) length += bytes.length;
    expect(length).toBe(50_000);
  });

  it("refuses more than it keeps", () => {
    const queue = new InputQueue();
    expect(queue.add(new Uint8Array(KEPT))).toBe(true);
    expect(queue.add(text("x"))).toBe(false);
  });
});
