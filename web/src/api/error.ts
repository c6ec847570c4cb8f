import type { ErrorCode } from "./types";

/** A refusal of the server or of a seat, or (status 0, code `NETWORK`) no answer at all. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: ErrorCode,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }

  /** Whether asking again later may help without anybody changing anything. */
  get temporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** The error in a response that is not ok; bodies that are not ours (a proxy's page) become a plain sentence. */
export async function errorOf(response: Response): Promise<ApiError> {
  try {
    const body: unknown = await response.json();
    if (typeof body === "object" && body !== null && "error" in body) {
      const { error } = body as { error: { code?: unknown; message?: unknown } };
      if (typeof error?.code === "string" && typeof error.message === "string") {
        return new ApiError(response.status, error.code, error.message);
      }
    }
  } catch {
    // Not JSON: told below by its status.
  }
  return new ApiError(
    response.status,
    response.status === 404 ? "NOT_FOUND" : response.status === 401 ? "UNAUTHORIZED" : "HTTP",
    `The server answered ${response.status}${response.statusText ? ` ${response.statusText}` : ""}.`,
  );
}

/** What fetch throws when nothing answered. */
export function networkError(): ApiError {
  return new ApiError(0, "NETWORK", "The server can't be reached. Check the connection; this page keeps trying.");
}

/** Any thrown thing as a sentence for people. */
export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
