/**
 * Server-sent events over fetch: unlike `EventSource` it can carry an `Authorization` header, and it hands over events
 * of any name. The parser follows the HTML standard, section "Parsing an event stream".
 */

export interface StreamEvent {
  /** The `event:` field, `message` without one. */
  event: string;
  data: string;
}

/** Turns pieces of text into events; keeps the last id for resuming. */
export class EventParser {
  lastId = "";
  private buffer = "";
  private event = "";
  private data: string[] = [];

  /** Takes the next piece and returns the events that it completed. */
  push(text: string): StreamEvent[] {
    this.buffer += text;
    const events: StreamEvent[] = [];
    for (;;) {
      const end = this.buffer.search(/\r\n|\n|\r(?=[^\n])/);
      if (end < 0) return events;
      const line = this.buffer.slice(0, end);
      this.buffer = this.buffer.slice(end + (this.buffer.startsWith("\r\n", end) ? 2 : 1));
      const done = this.line(line);
      if (done) events.push(done);
    }
  }

  private line(line: string): StreamEvent | null {
    if (line === "") {
      const done = this.data.length > 0 ? { event: this.event || "message", data: this.data.join("\n") } : null;
      this.event = "";
      this.data = [];
      return done;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.event = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    return null;
  }
}

export interface Subscription {
  /** Opens the stream; `lastId` is the id to resume after, empty at first. */
  open(lastId: string, signal: AbortSignal): Promise<Response>;
  onEvent(event: StreamEvent): void;
  /** Called whenever the stream has (re)opened: what was missed should be read again. */
  onOpen?(): void;
  /** Called when the stream could not be opened or ended; it is tried again. */
  onLost?(error: unknown): void;
}

/** Keeps a stream open until the returned function is called. */
export function subscribe(subscription: Subscription): () => void {
  const abort = new AbortController();
  void follow(subscription, abort.signal);
  return () => abort.abort();
}

async function follow(subscription: Subscription, signal: AbortSignal): Promise<void> {
  const parser = new EventParser();
  let failures = 0;
  while (!signal.aborted) {
    try {
      const response = await subscription.open(parser.lastId, signal);
      if (response.body === null) throw new Error("the event stream has no body");
      failures = 0;
      subscription.onOpen?.();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        for (const event of parser.push(value)) subscription.onEvent(event);
      }
      subscription.onLost?.(null);
    } catch (error) {
      if (signal.aborted) return;
      subscription.onLost?.(error);
    }
    failures += 1;
    await pause(Math.min(10_000, 500 * 2 ** Math.min(failures, 5)) * (0.5 + Math.random() / 2), signal);
  }
}

/** Waits, or returns early when `signal` fires. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
