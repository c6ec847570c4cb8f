import { isWithin, moved } from "./paths";

/** A file that is open in the editor. */
export interface Document {
  path: string;
  kind: "text" | "binary" | "large";
  /** Size on disk, in bytes. */
  size: number;
  /** The version on disk that the text below is. */
  etag: string;
  /** The text on disk, as far as is known. */
  text: string;
  /** Grows whenever the editor must show `text` anew. */
  version: number;
  /** Whether the editor holds something else than `text`. */
  dirty: boolean;
  saving: boolean;
  /** The file changed or vanished on disk while there are unsaved changes here. */
  conflict: null | { what: "changed"; text: string; etag: string } | { what: "deleted" };
}

export interface Documents {
  open: Document[];
  active: string | null;
}

export type DocumentAction =
  | { type: "opened"; document: Pick<Document, "path" | "kind" | "size" | "etag" | "text"> }
  | { type: "shown"; path: string }
  | { type: "closed"; path: string }
  | { type: "edited"; path: string; dirty: boolean }
  | { type: "saving"; path: string }
  /** `text` is what was written; `current` whether the editor still holds just that. */
  | { type: "saved"; path: string; text: string; etag: string; current: boolean }
  | { type: "notSaved"; path: string }
  /** What is on disk now, seen after a change event or a refused save. */
  | { type: "onDisk"; path: string; text: string; etag: string; size: number }
  | { type: "goneFromDisk"; path: string }
  /** The user takes what is on disk and drops the own changes. */
  | { type: "takeTheirs"; path: string }
  | { type: "renamed"; from: string; to: string }
  | { type: "removed"; path: string };

export const none: Documents = { open: [], active: null };

export function update(state: Documents, action: DocumentAction): Documents {
  switch (action.type) {
    case "opened": {
      const { document } = action;
      if (state.open.some((d) => d.path === document.path)) return { ...state, active: document.path };
      const fresh: Document = { ...document, version: 0, dirty: false, saving: false, conflict: null };
      return { open: [...state.open, fresh], active: document.path };
    }
    case "shown":
      return { ...state, active: action.path };
    case "closed":
      return without(state, (d) => d.path === action.path);
    case "edited":
      return change(state, action.path, (d) => (d.dirty === action.dirty ? d : { ...d, dirty: action.dirty }));
    case "saving":
      return change(state, action.path, (d) => ({ ...d, saving: true }));
    case "saved":
      return change(state, action.path, (d) => ({
        ...d,
        saving: false,
        text: action.text,
        etag: action.etag,
        dirty: !action.current,
        conflict: null,
      }));
    case "notSaved":
      return change(state, action.path, (d) => ({ ...d, saving: false }));
    case "onDisk":
      return change(state, action.path, (d) => onDisk(d, action.text, action.etag, action.size));
    case "goneFromDisk":
      return change(state, action.path, (d) => ({ ...d, saving: false, conflict: { what: "deleted" } }));
    case "takeTheirs":
      return change(state, action.path, (d) =>
        d.conflict?.what === "changed"
          ? { ...d, text: d.conflict.text, etag: d.conflict.etag, version: d.version + 1, dirty: false, conflict: null }
          : d,
      );
    case "renamed": {
      const open = state.open.map((d) => ({ ...d, path: moved(d.path, action.from, action.to) }));
      return { open, active: state.active === null ? null : moved(state.active, action.from, action.to) };
    }
    case "removed":
      return without(state, (d) => isWithin(d.path, action.path));
  }
}

function onDisk(document: Document, text: string, etag: string, size: number): Document {
  const d = { ...document, saving: false, size };
  if (etag === d.etag) return { ...d, conflict: null };
  if (text === d.text) return { ...d, etag, conflict: null };
  if (d.dirty) return { ...d, conflict: { what: "changed", text, etag } };
  return { ...d, text, etag, version: d.version + 1, conflict: null };
}

function change(state: Documents, path: string, how: (document: Document) => Document): Documents {
  return { ...state, open: state.open.map((d) => (d.path === path ? how(d) : d)) };
}

function without(state: Documents, gone: (document: Document) => boolean): Documents {
  const index = state.open.findIndex((d) => d.path === state.active);
  const open = state.open.filter((d) => !gone(d));
  const kept = open.some((d) => d.path === state.active);
  return { open, active: kept ? state.active : (open[Math.min(Math.max(index, 0), open.length - 1)]?.path ?? null) };
}

/**
 * The line separator with which a text must be split so that joining it again gives the same bytes: CRLF only when
 * every line ends so; a lone CR stays a character.
 */
export function separatorOf(text: string): "\n" | "\r\n" {
  const all = text.split("\n").length - 1;
  return all > 0 && text.split("\r\n").length - 1 === all ? "\r\n" : "\n";
}
