import { describe, expect, it } from "vitest";
import { EventParser } from "../src/api/eventstream";

const stream = "id: 7\nevent: workshop\ndata: {\"a\":1}\n\n: alive\n\ndata: one\ndata: two\r\n\r\nid: 9\rdata:x\r\rretry: 5\ndata\n\n";
const events = [
  { event: "workshop", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "message", data: "x" },
  { event: "message", data: "" },
];

describe("EventParser", () => {
  it("reads events, comments, names and all three line ends", () => {
    const parser = new EventParser();
    expect(parser.push(stream)).toEqual(events);
    expect(parser.lastId).toBe("9");
  });

  it("does not mind where the stream is cut", () => {
    for (let size = 1; size < 20; size += 1) {
      const parser = new EventParser();
      const out = [];
      for (let at = 0; at < stream.length; at += size) out.push(...parser.push(stream.slice(at, at + size)));
      expect(out).toEqual(events);
    }
  });
});
