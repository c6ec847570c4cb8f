/**
 * Input on its way to a terminal. Each piece has a number and is kept until it is acknowledged, so that what was typed
 * while a connection broke is sent again exactly once.
 */

/** Largest piece, in bytes. */
const PIECE = 16 * 1024;
/** Most bytes sent and not yet acknowledged; a large paste waits behind this. */
const WINDOW = 128 * 1024;
/** Most bytes kept while there is no connection. */
export const KEPT = 4 * 1024 * 1024;

interface Piece {
  n: number;
  bytes: Uint8Array;
}

export class InputQueue {
  private next = 1;
  private waiting: Piece[] = [];
  private flying: Piece[] = [];
  private kept = 0;
  private inFlight = 0;

  /** Takes input; false when too much is waiting already. */
  add(bytes: Uint8Array): boolean {
    if (bytes.length === 0) return true;
    if (this.kept + bytes.length > KEPT) return false;
    this.kept += bytes.length;
    for (const piece of pieces(bytes)) {
      this.waiting.push({ n: this.next, bytes: piece });
      this.next += 1;
    }
    return true;
  }

  /** The pieces to send now, oldest first. */
  take(): Piece[] {
    const out: Piece[] = [];
    for (;;) {
      const piece = this.waiting[0];
      if (!piece || (this.inFlight > 0 && this.inFlight + piece.bytes.length > WINDOW)) return out;
      this.waiting.shift();
      this.flying.push(piece);
      this.inFlight += piece.bytes.length;
      out.push(piece);
    }
  }

  /** Everything up to `n` has arrived. */
  acknowledge(n: number): void {
    while (this.flying[0] && this.flying[0].n <= n) {
      const piece = this.flying.shift();
      this.inFlight -= piece?.bytes.length ?? 0;
      this.kept -= piece?.bytes.length ?? 0;
    }
  }

  /** A new connection to the same terminal, which had taken everything up to `taken`: the rest goes again. */
  reconnect(taken: number): void {
    this.acknowledge(taken);
    this.waiting = [...this.flying, ...this.waiting];
    this.flying = [];
    this.inFlight = 0;
  }

  /** The terminal is another one now: what was meant for the old one must not reach it. */
  forget(): void {
    this.waiting = [];
    this.flying = [];
    this.kept = 0;
    this.inFlight = 0;
  }

  /** Whether something was sent and has not been acknowledged. */
  get unanswered(): boolean {
    return this.flying.length > 0;
  }
}

/** Cuts at most `PIECE` bytes at a time, never inside a UTF-8 sequence. */
function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  let start = 0;
  while (start < bytes.length) {
    let end = Math.min(bytes.length, start + PIECE);
    // A character has at most three continuation bytes; more in a row are no UTF-8 and may be cut anywhere.
    for (let back = 0; back < 3 && end < bytes.length && ((bytes[end] ?? 0) & 0xc0) === 0x80; back += 1) end -= 1;
    yield bytes.subarray(start, end);
    start = end;
  }
}
