import { load, store } from "../ui/stored";

/**
 * What this browser remembers of joins: per join code a random client id (the same one gives the same seat) and the
 * session code. The session in use is kept per tab first, so that two tabs can sit in two workshops.
 */

const SESSIONS = "clarateach.sessions";
const CURRENT = "clarateach.current";
/** Joins older than the newest so many are forgotten. */
const REMEMBERED = 20;

export interface Remembered {
  clientId: string;
  sessionCode?: string;
  name?: string;
  workshop?: string;
  at: number;
}

/** A join code without case, hyphens and spaces. */
export function normaliseCode(code: string): string {
  return code.replace(/[\s\u2010-\u2015\u2212-]/g, "").toUpperCase();
}

/** A join code as it is shown: in two groups of four when it has eight characters. */
export function prettyCode(code: string): string {
  const plain = normaliseCode(code);
  return plain.length > 4 ? `${plain.slice(0, 4)}-${plain.slice(4)}` : plain;
}

function all(): Record<string, Remembered> {
  return load<Record<string, Remembered>>(SESSIONS, {});
}

export function remembered(joinCode: string): Remembered {
  const code = normaliseCode(joinCode);
  const known = all()[code];
  if (known) return known;
  const fresh = { clientId: randomId(), at: Date.now() };
  put(code, fresh);
  return fresh;
}

export function remember(joinCode: string, change: Partial<Remembered>): void {
  put(normaliseCode(joinCode), { ...remembered(joinCode), ...change, at: Date.now() });
}

/**
 * Forgets the code of a session that is over. The client id stays: should the session live after all (a stopped workshop
 * goes on), joining again leads to its seat and not to a second one.
 */
export function forget(sessionCode: string): void {
  const entries = Object.entries(all()).map(([code, entry]): [string, Remembered] => {
    const { sessionCode: known, ...rest } = entry;
    return [code, known === sessionCode ? rest : entry];
  });
  store(SESSIONS, Object.fromEntries(entries));
  if (load<string | null>(CURRENT, null) === sessionCode) store(CURRENT, null);
  try {
    if (sessionStorage.getItem(CURRENT) === sessionCode) sessionStorage.removeItem(CURRENT);
  } catch {
    // Nothing was kept.
  }
}

/** The join code that led to a session, if it was joined with this browser. */
export function joinCodeOf(sessionCode: string): string | undefined {
  return Object.entries(all()).find(([, entry]) => entry.sessionCode === sessionCode)?.[0];
}

function put(code: string, entry: Remembered): void {
  const entries = Object.entries({ ...all(), [code]: entry });
  entries.sort(([, a], [, b]) => b.at - a.at);
  store(SESSIONS, Object.fromEntries(entries.slice(0, REMEMBERED)));
}

/** The session code this tab works with. */
export function currentSession(): string | null {
  try {
    const own = sessionStorage.getItem(CURRENT);
    if (own) return own;
  } catch {
    // Fall through to what the browser remembers.
  }
  return load<string | null>(CURRENT, null);
}

export function setCurrentSession(sessionCode: string): void {
  store(CURRENT, sessionCode);
  try {
    sessionStorage.setItem(CURRENT, sessionCode);
  } catch {
    // Kept for the browser, if not for the tab.
  }
}

function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_");
}
