import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { SeatAccess } from "../src/seat/access";
import { TerminalLink, type LinkView } from "../src/seat/link";

/** A WebSocket whose other end is the test. */
class FakeSocket {
  static all: FakeSocket[] = [];
  static readonly OPEN = 1;
  readyState = 0;
  protocol = "";
  binaryType = "";
  sent: (string | Uint8Array)[] = [];
  onopen?: () => void;
  onmessage?: (event: { data: string | ArrayBuffer }) => void;
  onclose?: () => void;
  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    FakeSocket.all.push(this);
  }
  send(data: string | Uint8Array) {
    this.sent.push(data);
  }
  close() {
    this.readyState = 3;
  }
  accept(hello: object) {
    this.readyState = 1;
    this.protocol = "clarateach.terminal.v1";
    this.onopen?.();
    this.say({ type: "hello", id: 1, seq: 0, epoch: "e1", cols: 80, rows: 24, writer: true, ...hello });
  }
  say(frame: object) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
  cut() {
    this.readyState = 3;
    this.onclose?.();
  }
  inputs() {
    return this.sent.map((data) => JSON.parse(String(data)) as { type: string; data?: string; n?: number }).filter((f) => f.type === "input");
  }
}

const access = { endpoint: "https://teach.example/proxy/w1/3", token: () => Promise.resolve("JWT") } as unknown as SeatAccess;
const bytes = (text: string) => new TextEncoder().encode(text);

function fakeView() {
  const screen = { text: "" };
  const view: LinkView = {
    write: (data, done) => {
      screen.text += typeof data === "string" ? data : new TextDecoder().decode(data);
      done();
    },
    reset: () => (screen.text = ""),
    size: vi.fn(),
    state: vi.fn(),
    exited: vi.fn(),
    refused: vi.fn(),
    trouble: vi.fn(),
  };
  return { view, screen };
}

const socket = async (n: number) => {
  await vi.advanceTimersByTimeAsync(0);
  const found = FakeSocket.all[n];
  if (!found) throw new Error(`there is no connection ${n}`);
  return found;
};

describe("TerminalLink", () => {
  beforeEach(() => {
    FakeSocket.all = [];
    vi.stubGlobal("WebSocket", FakeSocket);
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("shows its token as a subprotocol and never in the URL", async () => {
    const link = new TerminalLink(access, 1, fakeView().view);
    const first = await socket(0);
    expect(first.protocols).toContain("bearer.JWT");
    expect(first.url).not.toContain("JWT");
    expect(first.url).toMatch(/^wss:\/\/teach\.example\/proxy\/w1\/3\/terminal\?id=1&/);
    link.close();
  });

  it("comes back with the position it has seen and sends lost input again", async () => {
    const { view, screen } = fakeView();
    const link = new TerminalLink(access, 1, view);
    const first = await socket(0);
    first.accept({});
    first.say({ type: "output", data: "$ ", seq: 2 });
    link.send(bytes("a"));
    link.send(bytes("b"));
    first.say({ type: "ack", n: 1 });
    first.cut();
    link.send(bytes("c"));
    await vi.advanceTimersByTimeAsync(300);
    const second = await socket(1);
    expect(new URL(second.url).searchParams.get("since")).toBe("2");
    expect(new URL(second.url).searchParams.get("epoch")).toBe("e1");
    expect(new URL(second.url).searchParams.get("client")).toBe(new URL(first.url).searchParams.get("client"));
    second.accept({ seq: 2, n: 1 });
    second.say({ type: "output", data: "abc", seq: 5 });
    expect(second.inputs().map((f) => f.data)).toEqual(["b", "c"]);
    expect(screen.text).toBe("$ abc");
    expect(view.trouble).toHaveBeenCalled();
    link.close();
  });

  it("never sends old input to a new shell", async () => {
    const { view, screen } = fakeView();
    const link = new TerminalLink(access, 1, view);
    const first = await socket(0);
    first.accept({});
    first.say({ type: "output", data: "old", seq: 3 });
    link.send(bytes("rm x\r"));
    first.cut();
    await vi.advanceTimersByTimeAsync(300);
    const second = await socket(1);
    second.accept({ epoch: "e2", seq: 0 });
    second.say({ type: "output", data: "new", seq: 3 });
    expect(second.inputs()).toEqual([]);
    expect(screen.text).toBe("new");
    link.close();
  });

  it("takes a connection for dead that does not acknowledge input", async () => {
    const link = new TerminalLink(access, 1, fakeView().view);
    (await socket(0)).accept({});
    link.send(bytes("x"));
    await vi.advanceTimersByTimeAsync(6500);
    expect(FakeSocket.all.length).toBe(2);
    link.close();
  });

  it("stays away after an exit and says the code", async () => {
    const { view } = fakeView();
    const link = new TerminalLink(access, 1, view);
    const first = await socket(0);
    first.accept({});
    first.say({ type: "exit", code: 3 });
    first.cut();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.all.length).toBe(1);
    expect(view.exited).toHaveBeenCalledWith(3);
    link.close();
  });

  it("sends its size when it is told that it is the writer", async () => {
    const { view } = fakeView();
    const link = new TerminalLink(access, 1, view);
    link.resize(120, 40);
    const first = await socket(0);
    first.accept({ writer: false });
    first.sent = [];
    first.say({ type: "size", cols: 80, rows: 24, writer: true });
    expect(first.sent.map((data) => JSON.parse(String(data)) as unknown)).toEqual([{ type: "resize", cols: 120, rows: 40 }]);
    link.close();
  });

  it("does not hang on a handshake that is never answered", async () => {
    const link = new TerminalLink(access, 1, fakeView().view);
    await socket(0);
    await vi.advanceTimersByTimeAsync(11_000);
    expect(FakeSocket.all.length).toBeGreaterThan(1);
    link.close();
  });
});
