import { ApiError } from "./error";
import { json, send } from "./http";
import type { WhoAmI } from "./types";

/** Who the caller is, or null when this server wants a login first. */
export async function whoAmI(): Promise<WhoAmI | null> {
  try {
    return await json<WhoAmI>("/api/me");
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return null;
    throw error;
  }
}

export async function login(token: string): Promise<void> {
  await send("/api/login", { method: "POST", body: { token } });
}

export async function logout(): Promise<void> {
  await send("/api/logout", { method: "POST" });
}
