import { ApiError } from "../api/error";
import { normaliseCode, remember, remembered, setCurrentSession } from "../learner/memory";
import { getSession, join } from "../api/session";

/** What the start page shows below the field. */
export type JoinProblem = {
  /** Which field it is about. */
  field: "code" | "session" | "form";
  message: string;
};

const ALPHABET = /^[34679ACDEFGHJKMNPQRTWXY]*$/;

/** What is wrong with a join code before it is even sent, or null. */
export function checkCode(code: string): string | null {
  const plain = normaliseCode(code);
  if (plain === "") return "Type the code that your instructor shows, like K7QM-4XTP.";
  if (plain.length === 20) return "This looks like your own session code. Use it under “Come back from another device”.";
  if (plain.length !== 8) return `A join code has 8 characters; this has ${plain.length}.`;
  if (!ALPHABET.test(plain)) {
    const odd = [...plain].filter((c) => !ALPHABET.test(c));
    return `Join codes never contain ${[...new Set(odd)].join(", ")}. Look at the code once more.`;
  }
  return null;
}

/** The sentence for a refused join. The server's own sentence where it says more than we could. */
export function refusal(error: ApiError): JoinProblem {
  switch (error.code) {
    case "NOT_FOUND":
      return { field: "code", message: "No workshop has this code. Check it with your instructor." };
    case "NO_SEATS":
      return { field: "form", message: "Every seat of this workshop is taken. Tell your instructor; a seat may become free." };
    case "JOINING_LOCKED":
      return { field: "form", message: "The instructor has closed this workshop for newcomers. If you were in it before, come back with your session code." };
    case "INVALID_FIELD":
      // The code was looked at before it was sent; what else can be wrong is the name.
      return { field: error.message.startsWith("code") ? "code" : "form", message: error.message };
    default:
      return { field: "form", message: error.message };
  }
}

/** Joins and remembers the session; resolves to null when the learner page can take over, else to what is wrong. */
export async function joinWorkshop(code: string, name: string): Promise<JoinProblem | null> {
  const wrong = checkCode(code);
  if (wrong !== null) return { field: "code", message: wrong };
  const known = remembered(code);
  const given = name.trim();
  try {
    const answer = await join({ code, client_id: known.clientId, ...(given ? { name: given } : {}) });
    remember(code, { sessionCode: answer.session_code, workshop: answer.workshop_name, ...(given ? { name: given } : {}) });
    setCurrentSession(answer.session_code);
    return null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return refusal(error);
  }
}

/** Comes back with a session code from anywhere. */
export async function comeBack(sessionCode: string): Promise<JoinProblem | null> {
  const plain = normaliseCode(sessionCode);
  if (plain.length !== 20) return { field: "session", message: "A session code has 20 characters in five groups of four." };
  const pretty = plain.replace(/(.{4})(?=.)/g, "$1-");
  try {
    const view = await getSession(pretty);
    if (view.status === "ended") return { field: "session", message: view.reason ?? "This session has ended." };
    setCurrentSession(pretty);
    return null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 404 || error.status === 422) return { field: "session", message: "No session has this code. Check each character." };
    return { field: "session", message: error.message };
  }
}
