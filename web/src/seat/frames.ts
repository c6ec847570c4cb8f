/**
 * Frames of a seat's terminal. JSON text frames under `clarateach.terminal.v1`; under `clarateach.terminal.v1+binary`
 * output and input are binary messages of one byte of kind, eight bytes of number (big-endian) and the exact bytes.
 * Source: the `terminal` module of the crate `seatproto`.
 */

export const TEXT_PROTOCOL = "clarateach.terminal.v1";
export const BINARY_PROTOCOL = "clarateach.terminal.v1+binary";

const OUTPUT = 0x01;
const SNAPSHOT = 0x02;
const NUMBERED_INPUT = 0x02;
const HEADER_BYTES = 9;

export interface Hello {
  type: "hello";
  id: number;
  /** Position (bytes of output so far) after which output follows. */
  seq: number;
  /** Names this run of the workspace: positions of another epoch mean nothing. */
  epoch: string;
  cols: number;
  rows: number;
  /** Whether this client sets the terminal's size. */
  writer: boolean;
  /** The last input number that was taken from this client, if known. */
  n?: number;
}

export type ServerFrame =
  | Hello
  | { type: "output"; data: Uint8Array | string; seq: number; snapshot: boolean }
  | { type: "ack"; n: number }
  | { type: "size"; cols: number; rows: number; writer: boolean }
  | { type: "exit"; code: number }
  | { type: "error"; code: string; message: string };

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

/** Parses a message of either kind; null for one that this version does not know. */
export function parseFrame(message: string | ArrayBuffer): ServerFrame | null {
  return typeof message === "string" ? parseText(message) : parseBinary(message);
}

function parseText(message: string): ServerFrame | null {
  let frame: Record<string, unknown>;
  try {
    const value: unknown = JSON.parse(message);
    if (typeof value !== "object" || value === null) return null;
    frame = value as Record<string, unknown>;
  } catch {
    return null;
  }
  const { type, seq, n, id, code, data, cols, rows } = frame;
  switch (type) {
    case "hello":
      if (!isNumber(id) || !isNumber(seq)) return null;
      return {
        type,
        id,
        seq,
        epoch: typeof frame["epoch"] === "string" ? frame["epoch"] : "",
        cols: isNumber(cols) ? cols : 80,
        rows: isNumber(rows) ? rows : 24,
        writer: frame["writer"] !== false,
        ...(isNumber(n) ? { n } : {}),
      };
    case "output":
      if (typeof data !== "string" || !isNumber(seq)) return null;
      return { type, data, seq, snapshot: frame["snapshot"] === true };
    case "ack":
      return isNumber(n) ? { type, n } : null;
    case "size":
      if (!isNumber(cols) || !isNumber(rows)) return null;
      return { type, cols, rows, writer: frame["writer"] === true };
    case "exit":
      return isNumber(code) ? { type, code } : null;
    case "error":
      return { type, code: String(code), message: typeof frame["message"] === "string" ? frame["message"] : "" };
    default:
      return null;
  }
}

function parseBinary(message: ArrayBuffer): ServerFrame | null {
  if (message.byteLength < HEADER_BYTES) return null;
  const view = new DataView(message);
  const kind = view.getUint8(0);
  if (kind !== OUTPUT && kind !== SNAPSHOT) return null;
  // Positions stay far below 2^53: that would be 9 PB of output.
  const seq = Number(view.getBigUint64(1));
  return { type: "output", data: new Uint8Array(message, HEADER_BYTES), seq, snapshot: kind === SNAPSHOT };
}

/** Input with its number, as the negotiated protocol wants it. */
export function inputFrame(bytes: Uint8Array, n: number, binary: boolean): string | Uint8Array<ArrayBuffer> {
  if (!binary) return JSON.stringify({ type: "input", data: new TextDecoder().decode(bytes), n });
  const message = new Uint8Array(HEADER_BYTES + bytes.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, NUMBERED_INPUT);
  view.setBigUint64(1, BigInt(n));
  message.set(bytes, HEADER_BYTES);
  return message;
}

export function resizeFrame(cols: number, rows: number): string {
  return JSON.stringify({ type: "resize", cols, rows });
}
