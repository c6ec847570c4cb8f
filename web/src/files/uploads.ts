import { useRef, useState } from "preact/hooks";
import { sentence } from "../api/error";
import type { SeatAccess } from "../seat/access";
import { isConflict, uploadFile } from "../seat/files";
import { ask } from "../ui/dialog";
import { tell } from "../ui/toast";
import { join } from "./paths";

export interface Upload {
  id: number;
  path: string;
  size: number;
  /** Bytes that have left this machine. */
  sent: number;
  problem: string | null;
  stop(): void;
}

/** A file to upload with its path below the directory it goes to. */
export interface Source {
  name: string;
  file: File;
}

export interface UploadStore {
  uploads: Upload[];
  upload(directory: string, sources: Source[]): Promise<void>;
  dismiss(id: number): void;
}

/** Uploads, two at a time. An existing file is replaced only when the user says so. */
export function useUploads(access: SeatAccess, done: (directory: string) => void): UploadStore {
  const [uploads, setUploads] = useState<Upload[]>([]);
  const next = useRef(1);
  const change = (id: number, part: Partial<Upload>) =>
    setUploads((uploads) => uploads.map((upload) => (upload.id === id ? { ...upload, ...part } : upload)));
  const dismiss = (id: number) => setUploads((uploads) => uploads.filter((upload) => upload.id !== id));

  const one = async (directory: string, { name, file }: Source): Promise<boolean> => {
    const path = join(directory, name);
    const id = next.current++;
    const abort = new AbortController();
    setUploads((uploads) => [...uploads, { id, path, size: file.size, sent: 0, problem: null, stop: () => abort.abort() }]);
    const send = (replace: boolean) =>
      uploadFile(access, path, file, { replace, signal: abort.signal, progress: (sent) => change(id, { sent }) });
    try {
      try {
        await send(false);
      } catch (error) {
        if (!isConflict(error)) throw error;
        const answer = await ask({ title: `Replace ${path}?`, text: ["A file with this name is there already."], confirm: "Replace", danger: true });
        if (answer === null) {
          dismiss(id);
          return false;
        }
        await send(true);
      }
      dismiss(id);
      return true;
    } catch (error) {
      if (abort.signal.aborted) dismiss(id);
      else change(id, { problem: sentence(error) });
      return false;
    }
  };

  return {
    uploads,
    dismiss,
    async upload(directory, sources) {
      const queue = [...sources];
      let uploaded = 0;
      const work = async () => {
        for (let source = queue.shift(); source; source = queue.shift()) {
          if (await one(directory, source)) uploaded += 1;
        }
      };
      await Promise.all([work(), work()]);
      done(directory);
      if (uploaded > 0) tell(uploaded === 1 ? "1 file uploaded." : `${uploaded} files uploaded.`);
    },
  };
}

/** What was dropped, folders included. */
export async function dropped(transfer: DataTransfer): Promise<Source[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (entries.every((entry) => entry === null)) return [...transfer.files].map((file) => ({ name: file.name, file }));
  const out: Source[] = [];
  for (const entry of entries) if (entry) await collect(entry, "", out);
  return out;
}

async function collect(entry: FileSystemEntry, prefix: string, out: Source[]): Promise<void> {
  const name = prefix === "" ? entry.name : `${prefix}/${entry.name}`;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    out.push({ name, file });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    // Browsers hand over a hundred entries at a time, and none when there are no more.
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return;
    for (const child of batch) await collect(child, name, out);
  }
}
