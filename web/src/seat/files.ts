import { ApiError, errorOf } from "../api/error";
import type { SeatAccess } from "./access";

/** The files API of a seat; see the `files` module of the crate `seatproto`. Paths are relative, without a leading `/`. */

export type EntryKind = "file" | "directory" | "symlink" | "other";

export interface Entry {
  name: string;
  type: EntryKind;
  size: number;
  /** Milliseconds since 1970. */
  mtime: number;
  mode: number;
}

export interface Listing {
  path: string;
  entries: Entry[];
  truncated?: boolean;
}

export interface Content {
  path: string;
  content: string;
  encoding: "utf-8" | "base64";
  size: number;
  mtime: number;
  etag: string;
}

export interface Written {
  path: string;
  size: number;
  etag: string;
}

/** A path as part of a URL. */
export function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

const jsonBody = (method: string, body: unknown): RequestInit => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

export async function listDirectory(access: SeatAccess, path: string): Promise<Listing> {
  return access.json<Listing>(`/files?path=${encodeURIComponent(path)}`);
}

/** A file's content, or a listing when the path turns out to be a directory. */
export async function readFile(access: SeatAccess, path: string): Promise<Content | Listing> {
  return access.json<Content | Listing>(`/files/${encodePath(path)}`);
}

/**
 * Writes text. With `ifMatch` only over that version (`""`: only if there is no such file); otherwise the seat answers
 * 412 and nothing is written.
 */
export async function writeFile(access: SeatAccess, path: string, content: string, ifMatch?: string): Promise<Written> {
  const body = { content, encoding: "utf-8", ...(ifMatch === undefined ? {} : { if_match: ifMatch }) };
  return access.json<Written>(`/files/${encodePath(path)}`, jsonBody("PUT", body));
}

export async function renameFile(access: SeatAccess, path: string, to: string): Promise<void> {
  await access.fetch(`/files/${encodePath(path)}`, jsonBody("POST", { rename_to: to }));
}

export async function makeDirectory(access: SeatAccess, path: string): Promise<void> {
  await access.fetch(`/files/${encodePath(path)}`, jsonBody("POST", { mkdir: true }));
}

export async function deleteFile(access: SeatAccess, path: string): Promise<void> {
  await access.fetch(`/files/${encodePath(path)}`, { method: "DELETE" });
}

/** Whether a write was refused because the file is not the version it was thought to be, or is there already. */
export function isConflict(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 412 || error.code === "ALREADY_EXISTS");
}

/** Sends a file's bytes; `progress` is told the bytes that have left. XMLHttpRequest, as fetch can't tell. */
export async function uploadFile(
  access: SeatAccess,
  path: string,
  file: Blob,
  options: { replace: boolean; progress(sent: number): void; signal: AbortSignal },
): Promise<void> {
  const token = await access.token();
  await new Promise<void>((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `${access.endpoint}/raw/${encodePath(path)}`);
    request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (!options.replace) request.setRequestHeader("If-None-Match", "*");
    request.upload.onprogress = (event) => options.progress(event.loaded);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) return resolve();
      void errorOf(new Response(request.responseText, { status: request.status })).then(reject);
    };
    request.onerror = () => reject(new ApiError(0, "NETWORK", "The connection was lost during the upload."));
    request.onabort = () => reject(new ApiError(0, "ABORTED", "The upload was stopped."));
    options.signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** Lets the browser save a file, or a directory as `.tar.gz`. */
export async function download(access: SeatAccess, path: string, directory: boolean): Promise<void> {
  const from = directory ? `/archive?path=${encodeURIComponent(path)}` : `/raw/${encodePath(path)}`;
  const base = path.split("/").pop() || "workspace";
  const name = directory ? `${base}.tar.gz` : base;
  if (access.cookie) return save(access.endpoint + from, name);
  // Where no cookie can be had (the seat is on another origin) the bytes pass through this page.
  const blob = await (await access.fetch(from)).blob();
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function save(href: string, name: string): void {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}
