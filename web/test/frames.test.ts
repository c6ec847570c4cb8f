import { describe, expect, it } from "vitest";
import { inputFrame, parseFrame, resizeFrame } from "../src/seat/frames";

const binary = (kind: number, seq: bigint, bytes: number[]) => {
  const view = new DataView(new ArrayBuffer(9 + bytes.length));
  view.setUint8(0, kind);
  view.setBigUint64(1, seq);
  new Uint8Array(view.buffer).set(bytes, 9);
  return view.buffer;
};

describe("parsing", () => {
  it("reads the hello", () => {
    const hello = { type: "hello", id: 2, seq: 512, epoch: "a1", cols: 100, rows: 30, writer: false, n: 7 };
    expect(parseFrame(JSON.stringify(hello))).toEqual(hello);
  });

  it("reads output, acks, sizes, exits and errors", () => {
    expect(parseFrame('{"type":"output","data":"é","seq":2}')).toEqual({ type: "output", data: "é", seq: 2, snapshot: false });
    expect(parseFrame('{"type":"output","data":"","seq":2,"snapshot":true}')).toMatchObject({ snapshot: true });
    expect(parseFrame('{"type":"ack","n":3}')).toEqual({ type: "ack", n: 3 });
    expect(parseFrame('{"type":"size","cols":1,"rows":2,"writer":true}')).toEqual({ type: "size", cols: 1, rows: 2, writer: true });
    expect(parseFrame('{"type":"exit","code":137}')).toEqual({ type: "exit", code: 137 });
    expect(parseFrame('{"type":"error","code":"NO_SHELL","message":"m"}')).toEqual({ type: "error", code: "NO_SHELL", message: "m" });
  });

  it("reads binary output and redraws with their exact bytes", () => {
    expect(parseFrame(binary(1, 5n, [0xff, 0xc3]))).toEqual({ type: "output", data: new Uint8Array([0xff, 0xc3]), seq: 5, snapshot: false });
    expect(parseFrame(binary(2, 2n ** 40n, []))).toMatchObject({ seq: 2 ** 40, snapshot: true });
  });

  it.each(["", "null", "[]", "{}", '{"type":"output","data":1,"seq":2}', '{"type":"hello","id":"x","seq":0}', '{"type":"later"}', "{"])(
    "ignores %s",
    (text) => expect(parseFrame(text)).toBeNull(),
  );

  it("ignores binary messages that are cut or of another kind", () => {
    expect(parseFrame(new ArrayBuffer(3))).toBeNull();
    expect(parseFrame(binary(9, 0n, [1]))).toBeNull();
  });
});

describe("writing", () => {
  const bytes = new TextEncoder().encode("ls\r");

  it("numbers input in both encodings", () => {
    expect(JSON.parse(inputFrame(bytes, 4, false) as string)).toEqual({ type: "input", data: "ls\r", n: 4 });
    expect(inputFrame(bytes, 258, true)).toEqual(new Uint8Array([2, 0, 0, 0, 0, 0, 0, 1, 2, 108, 115, 13]));
  });

  it("says the size", () => expect(JSON.parse(resizeFrame(80, 24))).toEqual({ type: "resize", cols: 80, rows: 24 }));
});
