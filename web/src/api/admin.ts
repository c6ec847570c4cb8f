import { json } from "./http";
import type { AdminOverview, AdminVm, UserView } from "./types";

export async function getOverview(): Promise<AdminOverview> {
  return (await json<{ overview: AdminOverview }>("/api/admin/overview")).overview;
}

/** Every environment, and the runtimes that could not be asked (theirs are missing from the list). */
export async function listVms(): Promise<{ vms: AdminVm[]; unknown: string[] }> {
  return json("/api/admin/vms");
}

export async function listUsers(): Promise<UserView[]> {
  return (await json<{ users: UserView[] }>("/api/admin/users")).users;
}

/** Makes an instructor; the token is shown this once. */
export async function createUser(name: string): Promise<{ user: UserView; token: string }> {
  return json("/api/admin/users", { method: "POST", body: { name } });
}
