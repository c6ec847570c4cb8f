import { useEffect, useReducer, useRef } from "preact/hooks";
import { ApiError } from "../api/error";
import { isMissing, type SeatAccess } from "../seat/access";
import { isConflict, readFile, writeFile, type Content } from "../seat/files";
import { ask, confirm } from "../ui/dialog";
import { tell, tellFailure } from "../ui/toast";
import { none, update, type Documents } from "./documents";
import { checkPath, nameOf, parentOf } from "./paths";

export interface DocumentStore {
  documents: Documents;
  /** Opens a file; resolves to false when the path is a directory. */
  open(path: string): Promise<boolean>;
  show(path: string): void;
  close(path: string): Promise<void>;
  save(path: string): Promise<void>;
  /** Writes over whatever is on disk. Only after the user has said so. */
  overwrite(path: string): Promise<void>;
  saveCopy(path: string): Promise<void>;
  takeTheirs(path: string): Promise<void>;
  edited(path: string, dirty: boolean): void;
  /** Where an editor lets its text be read. */
  reader(path: string, read: (() => string) | null): void;
  /** Something changed on disk in these directories. */
  diskChanged(directories: string[], overflow: boolean): void;
  renamed(from: string, to: string): void;
  removed(path: string): void;
  anyDirty(within: string): boolean;
}

/** The open files of a seat and what can be done with them. */
export function useDocuments(access: SeatAccess): DocumentStore {
  const [documents, dispatch] = useReducer(update, none);
  const latest = useRef(documents);
  latest.current = documents;
  const readers = useRef(new Map<string, () => string>());

  useEffect(() => {
    const guard = (event: BeforeUnloadEvent) => {
      if (latest.current.open.some((d) => d.dirty)) event.preventDefault();
    };
    addEventListener("beforeunload", guard);
    return () => removeEventListener("beforeunload", guard);
  }, []);

  const find = (path: string) => latest.current.open.find((d) => d.path === path);

  /** Whether it was written and nothing was typed meanwhile. */
  const write = async (path: string, ifMatch: string | undefined): Promise<boolean> => {
    const document = find(path);
    const text = readers.current.get(path)?.();
    if (!document || text === undefined || document.saving) return false;
    dispatch({ type: "saving", path });
    try {
      const written = await writeFile(access, path, text, ifMatch);
      const current = readers.current.get(path)?.() === text;
      dispatch({ type: "saved", path, text, etag: written.etag, current });
      return current;
    } catch (error) {
      dispatch({ type: "notSaved", path });
      if (isConflict(error)) await look(path);
      else tellFailure(`${nameOf(path)} was not saved`, error);
      return false;
    }
  };

  /** Reads an open file again. */
  const look = async (path: string) => {
    try {
      const content = await readFile(access, path);
      if ("entries" in content) return;
      if (content.encoding === "utf-8") {
        dispatch({ type: "onDisk", path, text: content.content, etag: content.etag, size: content.size });
      } else if (find(path)?.kind === "text" && !find(path)?.dirty) {
        dispatch({ type: "closed", path });
        dispatch({ type: "opened", document: opened(content) });
      }
    } catch (error) {
      if (!isMissing(error)) return;
      if (find(path)?.dirty) dispatch({ type: "goneFromDisk", path });
      else dispatch({ type: "closed", path });
    }
  };

  return {
    documents,
    async open(path) {
      if (find(path)) {
        dispatch({ type: "shown", path });
        return true;
      }
      try {
        const content = await readFile(access, path);
        if ("entries" in content) return false;
        dispatch({ type: "opened", document: opened(content) });
      } catch (error) {
        if (error instanceof ApiError && (error.status === 413 || error.code === "TOO_LARGE")) {
          dispatch({ type: "opened", document: { path, kind: "large", size: 0, etag: "", text: "" } });
        } else {
          tellFailure(`${nameOf(path)} can't be opened`, error);
        }
      }
      return true;
    },
    show: (path) => dispatch({ type: "shown", path }),
    async close(path) {
      if (find(path)?.dirty) {
        const answer = await ask({
          title: `Save ${nameOf(path)} before closing?`,
          text: ["It has changes that are not saved."],
          confirm: "Save and close",
          other: { label: "Close without saving", value: "drop", danger: true },
        });
        if (answer === null) return;
        if (answer !== "drop" && !(await write(path, find(path)?.etag))) return;
      }
      dispatch({ type: "closed", path });
    },
    async save(path) {
      const document = find(path);
      // A conflict is for the user to settle first.
      if (document && document.conflict === null) await write(path, document.etag);
    },
    async overwrite(path) {
      await write(path, undefined);
    },
    async saveCopy(path) {
      const text = readers.current.get(path)?.();
      const to = await ask({
        title: "Save your version as",
        confirm: "Save",
        input: { label: "File name", value: `${path}.mine`, check: checkPath },
      });
      if (to === null || text === undefined) return;
      try {
        await writeFile(access, to, text, "");
        tell(`Saved as ${to}.`);
      } catch (error) {
        tellFailure(isConflict(error) ? `${to} exists already` : "The copy was not saved", error);
      }
    },
    async takeTheirs(path) {
      const sure = await confirm({
        title: `Take what is on disk?`,
        text: [`Your unsaved changes to ${nameOf(path)} are lost.`],
        confirm: "Drop my changes",
        danger: true,
      });
      if (sure) dispatch({ type: "takeTheirs", path });
    },
    edited: (path, dirty) => dispatch({ type: "edited", path, dirty }),
    reader(path, read) {
      if (read) readers.current.set(path, read);
      else readers.current.delete(path);
    },
    diskChanged(directories, overflow) {
      for (const { path, kind } of latest.current.open) {
        if (kind === "text" && (overflow || directories.includes(parentOf(path)))) void look(path);
      }
    },
    renamed: (from, to) => dispatch({ type: "renamed", from, to }),
    removed: (path) => dispatch({ type: "removed", path }),
    anyDirty: (within) => latest.current.open.some((d) => d.dirty && (d.path === within || d.path.startsWith(`${within}/`))),
  };
}

function opened(content: Content) {
  const text = content.encoding === "utf-8";
  return {
    path: content.path,
    kind: text ? ("text" as const) : ("binary" as const),
    size: content.size,
    etag: content.etag,
    text: text ? content.content : "",
  };
}
