import type { Entry, EntryKind, Listing } from "../seat/files";
import { isWithin, join, moved } from "./paths";

/** The part of the workspace's tree that has been looked at. */
export interface Tree {
  directories: ReadonlyMap<string, Directory>;
  /** Directories that are unfolded. */
  open: ReadonlySet<string>;
}

export interface Directory {
  entries: Entry[];
  truncated: boolean;
  /** Why it can't be read, if it can't. */
  problem: string | null;
}

/** One line of the tree as shown. */
export interface Row {
  path: string;
  name: string;
  kind: EntryKind;
  depth: number;
  /** Unfolded; null for what can't be. */
  open: boolean | null;
  size: number;
}

export const empty: Tree = { directories: new Map(), open: new Set([""]) };

export function loaded(tree: Tree, listing: Listing): Tree {
  const entries = [...listing.entries].sort(byKindAndName);
  const directories = new Map(tree.directories).set(listing.path, { entries, truncated: listing.truncated === true, problem: null });
  // What is no longer there is forgotten with everything in it.
  const names = new Set(entries.map((entry) => join(listing.path, entry.name)));
  for (const path of directories.keys()) {
    if (path === listing.path || !isWithin(path, listing.path)) continue;
    const rest = listing.path === "" ? path : path.slice(listing.path.length + 1);
    if (!names.has(join(listing.path, rest.split("/")[0] ?? ""))) directories.delete(path);
  }
  return { ...tree, directories };
}

export function unreadable(tree: Tree, path: string, problem: string): Tree {
  const before = tree.directories.get(path);
  return {
    ...tree,
    directories: new Map(tree.directories).set(path, { entries: before?.entries ?? [], truncated: before?.truncated ?? false, problem }),
  };
}

export function unfolded(tree: Tree, path: string, open: boolean): Tree {
  const set = new Set(tree.open);
  if (open) set.add(path);
  else set.delete(path);
  return { ...tree, open: set };
}

/** After a rename: what was unfolded stays so under its new name. */
export function renamed(tree: Tree, from: string, to: string): Tree {
  return { ...tree, open: new Set([...tree.open].map((path) => moved(path, from, to))) };
}

/** The directories to read again after a change event: those shown among the changed ones. */
export function stale(tree: Tree, changed: string[], overflow: boolean): string[] {
  return [...tree.directories.keys()].filter((path) => overflow || changed.includes(path));
}

/** All lines, from top to bottom. */
export function rows(tree: Tree): Row[] {
  const out: Row[] = [];
  const visit = (directory: string, depth: number) => {
    for (const entry of tree.directories.get(directory)?.entries ?? []) {
      const path = join(directory, entry.name);
      const folder = entry.type === "directory" || tree.directories.has(path);
      const open = folder ? tree.open.has(path) : null;
      out.push({ path, name: entry.name, kind: entry.type, depth, open, size: entry.size });
      if (open) visit(path, depth + 1);
    }
  };
  visit("", 1);
  return out;
}

function byKindAndName(a: Entry, b: Entry): number {
  const folders = Number(b.type === "directory") - Number(a.type === "directory");
  return folders !== 0 ? folders : a.name.localeCompare(b.name, undefined, { numeric: true });
}
