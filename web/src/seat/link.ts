import type { SeatAccess } from "./access";
import { BINARY_PROTOCOL, inputFrame, parseFrame, resizeFrame, TEXT_PROTOCOL, type ServerFrame } from "./frames";
import { InputQueue } from "./input";
import { begin, step, type LinkEvent, type LinkState } from "./reconnect";

/** Input without an answer for this long means that the connection is dead, whatever the socket says. In ms. */
const DEAF = 6000;
/** A handshake may take this long, in ms. */
const HANDSHAKE = 10_000;
/** Output received and not yet drawn above which the view is too far behind, in bytes. */
const BEHIND = 16 * 1024 * 1024;

export interface LinkView {
  /** Draws output and calls `done` when it is drawn. `snapshot` output resets the emulator by itself. */
  write(data: Uint8Array | string, done: () => void): void;
  /** The terminal started anew: nothing on the screen is part of it. */
  reset(): void;
  /** The terminal's size, and whether this view decides on it. */
  size(cols: number, rows: number, writer: boolean): void;
  state(state: LinkState): void;
  exited(code: number): void;
  /** A refusal by the seat, as a sentence. */
  refused(code: string, message: string): void;
  /** The connection could not be made or was lost: someone may want to ask the server why. */
  trouble(): void;
}

/** One terminal of a seat, kept connected: reconnects with `since` and loses neither output nor input. */
export class TerminalLink {
  private state: LinkState = begin;
  private socket: WebSocket | undefined;
  private binary = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private deaf: ReturnType<typeof setTimeout> | undefined;
  private readonly queue = new InputQueue();
  private readonly client = crypto.getRandomValues(new Uint8Array(16)).reduce((t, b) => t + b.toString(16).padStart(2, "0"), "");
  private epoch = "";
  /** Position after the last output handed to the view; undefined before the first hello. */
  private seq: number | undefined;
  private undrawn = 0;
  private wanted = { cols: 0, rows: 0 };
  private readonly retry = () => this.apply({ type: "retry" });

  constructor(
    private readonly access: SeatAccess,
    private readonly id: number,
    private readonly view: LinkView,
  ) {
    addEventListener("online", this.retry);
    document.addEventListener("visibilitychange", this.retry);
    this.enact();
  }

  /** Sends what the user typed or pasted; false when too much is waiting. */
  send(bytes: Uint8Array): boolean {
    if (!this.queue.add(bytes)) return false;
    this.flush();
    return true;
  }

  resize(cols: number, rows: number): void {
    this.wanted = { cols, rows };
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(resizeFrame(cols, rows));
  }

  close(): void {
    this.apply({ type: "close" });
    removeEventListener("online", this.retry);
    document.removeEventListener("visibilitychange", this.retry);
  }

  private apply(event: LinkEvent): void {
    const before = this.state;
    this.state = step(before, event);
    if (this.state !== before) this.enact();
  }

  private enact(): void {
    this.view.state(this.state);
    clearTimeout(this.timer);
    switch (this.state.phase) {
      case "connecting":
        void this.connect();
        break;
      case "waiting":
        this.drop();
        this.timer = setTimeout(this.retry, this.state.delay);
        break;
      case "over":
        this.drop();
        break;
      case "open":
        break;
    }
  }

  private lost(): void {
    this.apply({ type: "lost", now: Date.now(), random: Math.random() });
    if (this.state.phase === "waiting") this.view.trouble();
  }

  private drop(): void {
    clearTimeout(this.deaf);
    const socket = this.socket;
    this.socket = undefined;
    socket?.close();
  }

  private async connect(): Promise<void> {
    let token: string;
    try {
      token = await this.access.token();
    } catch {
      return this.lost();
    }
    if (this.state.phase !== "connecting" || this.socket) return;
    const socket = new WebSocket(this.url(), [BINARY_PROTOCOL, TEXT_PROTOCOL, `bearer.${token}`]);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.timer = setTimeout(() => {
      if (this.socket === socket && this.state.phase === "connecting") this.lost();
    }, HANDSHAKE);
    socket.onopen = () => {
      this.binary = socket.protocol === BINARY_PROTOCOL;
    };
    socket.onmessage = (message: MessageEvent<string | ArrayBuffer>) => {
      if (this.socket !== socket) return;
      const frame = parseFrame(message.data);
      if (frame) this.take(frame);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = undefined;
      this.lost();
    };
  }

  private url(): string {
    const url = new URL(`${this.access.endpoint}/terminal`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("id", String(this.id));
    url.searchParams.set("client", this.client);
    if (this.seq !== undefined) {
      url.searchParams.set("since", String(this.seq));
      url.searchParams.set("epoch", this.epoch);
    }
    return url.href;
  }

  private take(frame: ServerFrame): void {
    switch (frame.type) {
      case "hello":
        this.greeted(frame);
        break;
      case "output":
        this.seq = frame.seq;
        this.draw(frame.data);
        break;
      case "ack":
        this.queue.acknowledge(frame.n);
        this.listen();
        this.flush();
        break;
      case "size":
        this.view.size(frame.cols, frame.rows, frame.writer);
        if (frame.writer) this.sendSize();
        break;
      case "exit":
        this.apply({ type: "exit" });
        this.view.exited(frame.code);
        break;
      case "error":
        this.view.refused(frame.code, frame.message);
        break;
    }
  }

  private greeted(hello: Extract<ServerFrame, { type: "hello" }>): void {
    if (this.seq !== undefined && hello.epoch !== this.epoch) {
      this.queue.forget();
      this.view.reset();
    } else {
      this.queue.reconnect(hello.n ?? 0);
    }
    this.epoch = hello.epoch;
    this.seq = hello.seq;
    this.view.size(hello.cols, hello.rows, hello.writer);
    this.apply({ type: "opened", now: Date.now() });
    this.sendSize();
    this.flush();
  }

  private sendSize(): void {
    if (this.wanted.cols > 0) this.resize(this.wanted.cols, this.wanted.rows);
  }

  private draw(data: Uint8Array | string): void {
    const length = data.length;
    this.undrawn += length;
    this.view.write(data, () => {
      this.undrawn -= length;
    });
    // A browser can't hold a socket back. Rather than pile up output that nobody can read, come back for a redraw.
    if (this.undrawn > BEHIND) this.lost();
  }

  private flush(): void {
    if (this.state.phase !== "open" || this.socket?.readyState !== WebSocket.OPEN) return;
    for (const { n, bytes } of this.queue.take()) this.socket.send(inputFrame(bytes, n, this.binary));
    this.listen();
  }

  /** (Re)starts the wait for an ack. */
  private listen(): void {
    clearTimeout(this.deaf);
    if (!this.queue.unanswered) return;
    this.deaf = setTimeout(() => this.lost(), DEAF);
  }
}
