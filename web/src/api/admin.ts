import { json, send } from "./http";
import type { AdminOverview, AdminVm, UserView, WorkerView } from "./types";

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

export async function listWorkers(): Promise<WorkerView[]> {
  return (await json<{ workers: WorkerView[] }>("/api/admin/workers")).workers;
}

export async function addWorker(address: string, token: string): Promise<WorkerView> {
  const body = { address, token };
  return (await json<{ worker: WorkerView }>("/api/admin/workers", { method: "POST", body })).worker;
}

export async function drainWorker(id: string, draining: boolean): Promise<void> {
  await send(`/api/admin/workers/${encodeURIComponent(id)}/drain`, { method: "POST", body: { draining } });
}

/** Gives a worker up, with all that it has. */
export async function forgetWorker(id: string): Promise<void> {
  await send(`/api/admin/workers/${encodeURIComponent(id)}?force=true`, { method: "DELETE" });
}
