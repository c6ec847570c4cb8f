import { useEffect, useRef, useState } from "preact/hooks";
import { sentence } from "../api/error";
import { isMissing, type SeatAccess } from "../seat/access";
import { listDirectory } from "../seat/files";
import { parentOf } from "./paths";
import { empty, loaded, renamed, stale, unfolded, unreadable, type Tree } from "./tree";

export interface TreeStore {
  tree: Tree;
  fold(path: string, open: boolean): void;
  /** Reads a directory, again if need be. */
  read(path: string): Promise<void>;
  diskChanged(directories: string[], overflow: boolean): void;
  renamed(from: string, to: string): void;
}

/** The seat's directory tree, read as far as it is unfolded. */
export function useTree(access: SeatAccess): TreeStore {
  const [tree, setTree] = useState<Tree>(empty);
  const latest = useRef(tree);
  latest.current = tree;
  const running = useRef(new Map<string, { again: boolean }>());

  const read = async (path: string): Promise<void> => {
    // One reading of a directory at a time; changes meanwhile lead to one more.
    const before = running.current.get(path);
    if (before) {
      before.again = true;
      return;
    }
    const mine = { again: false };
    running.current.set(path, mine);
    try {
      do {
        mine.again = false;
        const listing = await listDirectory(access, path);
        setTree((tree) => loaded(tree, { ...listing, path }));
      } while (mine.again);
    } catch (error) {
      if (isMissing(error) && path !== "") setTree((tree) => unfolded(tree, path, false));
      else setTree((tree) => unreadable(tree, path, sentence(error)));
    } finally {
      running.current.delete(path);
    }
  };

  useEffect(() => {
    void read("");
  }, [access]);

  return {
    tree,
    read,
    fold(path, open) {
      setTree((tree) => unfolded(tree, path, open));
      if (open) void read(path);
    },
    diskChanged(directories, overflow) {
      for (const path of stale(latest.current, directories, overflow)) {
        if (path === "" || latest.current.open.has(path)) void read(path);
      }
    },
    renamed(from, to) {
      setTree((tree) => renamed(tree, from, to));
      void read(parentOf(from));
      void read(parentOf(to));
    },
  };
}
