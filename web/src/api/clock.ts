/**
 * The server's clock, as far as its `Date` headers tell. Countdowns and token lifetimes are reckoned by it, so that a
 * wrong clock on the learner's machine does not make the timer lie.
 */
let offset = 0;

/** Takes the `Date` header of a response (whole seconds) into account. */
export function noteServerDate(header: string | null, now: number = Date.now()): void {
  if (header === null) return;
  const server = Date.parse(header);
  if (Number.isNaN(server)) return;
  // The header is cut to whole seconds; half a second is its mean error. Small differences are noise.
  const seen = server + 500 - now;
  if (Math.abs(seen - offset) > 1000) offset = seen;
}

/** Now, by the server's clock, in milliseconds since 1970. */
export function serverNow(): number {
  return Date.now() + offset;
}
