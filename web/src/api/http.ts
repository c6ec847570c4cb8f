import { noteServerDate } from "./clock";
import { errorOf, networkError } from "./error";

/** How long a call may take before it counts as unanswered, in milliseconds. */
const PATIENCE = 20_000;

export interface Call {
  method?: "GET" | "POST" | "DELETE";
  body?: unknown;
  signal?: AbortSignal;
}

/** Sends a JSON call to this server and returns the response, or throws an `ApiError`. */
export async function send(path: string, call: Call = {}): Promise<Response> {
  const init: RequestInit = {
    method: call.method ?? "GET",
    credentials: "same-origin",
    cache: "no-store",
    headers: { Accept: "application/json" },
    signal: call.signal ? AbortSignal.any([call.signal, AbortSignal.timeout(PATIENCE)]) : AbortSignal.timeout(PATIENCE),
  };
  if (call.body !== undefined) {
    init.headers = { ...init.headers, "Content-Type": "application/json" };
    init.body = JSON.stringify(call.body);
  }
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (call.signal?.aborted) throw error;
    throw networkError();
  }
  noteServerDate(response.headers.get("date"));
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Like [`send`], for answers with a JSON body. */
export async function json<T>(path: string, call: Call = {}): Promise<T> {
  return (await (await send(path, call)).json()) as T;
}
