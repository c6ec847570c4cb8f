/** Bytes of keys that a touch keyboard does not have. */

export type ExtraKey = "esc" | "tab" | "up" | "down" | "left" | "right" | "home" | "end" | "pgup" | "pgdn";

const CURSOR: Partial<Record<ExtraKey, string>> = { up: "A", down: "B", right: "C", left: "D", home: "H", end: "F" };
const FIXED: Partial<Record<ExtraKey, string>> = { esc: "\x1b", tab: "\t", pgup: "\x1b[5~", pgdn: "\x1b[6~" };

/** What a key sends; cursor keys depend on the application cursor mode (DECCKM). */
export function keyBytes(key: ExtraKey, applicationCursor: boolean): string {
  const letter = CURSOR[key];
  if (letter !== undefined) return (applicationCursor ? "\x1bO" : "\x1b[") + letter;
  return FIXED[key] ?? "";
}

/** What Ctrl together with typed text sends: control characters for the first character, the rest as it is. */
export function withControl(text: string): string {
  const first = text[0];
  if (first === undefined) return text;
  const code = first.toUpperCase().charCodeAt(0);
  if (code >= 0x40 && code <= 0x5f) return String.fromCharCode(code & 0x1f) + text.slice(1);
  if (first === " " || first === "2") return "\0" + text.slice(1);
  if (first === "?") return "\x7f" + text.slice(1);
  if (first === "/") return "\x1f" + text.slice(1);
  return text;
}
