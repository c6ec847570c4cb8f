import { useEffect, useRef, useState } from "preact/hooks";
import type { SeatAccess } from "../seat/access";
import { deleteFile, download, isConflict, makeDirectory, renameFile, writeFile } from "../seat/files";
import { ask, confirm } from "../ui/dialog";
import { attempt, tellFailure } from "../ui/toast";
import { bytes, checkPath, isWithin, join, nameOf, parentOf } from "./paths";
import { rows, type Row } from "./tree";
import { dropped, useUploads } from "./uploads";
import type { DocumentStore } from "./useDocuments";
import type { TreeStore } from "./useTree";

export interface FilesPaneProps {
  access: SeatAccess;
  store: TreeStore;
  documents: DocumentStore;
  shown: boolean;
  /** A file was opened: narrow screens turn to the editor. */
  onOpened(): void;
}

/** The workspace's files as a tree. */
export function FilesPane({ access, store, documents, shown, onOpened }: FilesPaneProps) {
  const [selected, setSelected] = useState<string | null>(null);
  const [target, setTarget] = useState<string | null>(null);
  const picker = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const pressed = useRef(false);
  useEffect(() => {
    const released = () => (pressed.current = false);
    const ends = ["pointerup", "pointercancel", "dragend"];
    for (const end of ends) addEventListener(end, released);
    return () => {
      for (const end of ends) removeEventListener(end, released);
    };
  }, []);
  const uploads = useUploads(access, (directory) => void store.read(directory));
  const lines = rows(store.tree);
  const row = lines.find((line) => line.path === selected);
  const root = store.tree.directories.get("");
  /** Where new things go: the selected folder, or the one that the selected file is in. */
  const folder = !row ? "" : row.open !== null ? row.path : parentOf(row.path);

  useEffect(() => {
    if (documents.documents.active !== null) setSelected(documents.documents.active);
  }, [documents.documents.active]);
  useEffect(() => {
    if (selected !== null) list.current?.querySelector(`[data-path="${CSS.escape(selected)}"]`)?.scrollIntoView({ block: "nearest" });
  }, [selected]);

  const open = async (line: Row) => {
    setSelected(line.path);
    if (line.open !== null) return store.fold(line.path, !line.open);
    if (line.kind === "other") return tellFailure(line.name, new Error("this is a socket, pipe or device and can't be opened."));
    if (await documents.open(line.path)) onOpened();
    else store.fold(line.path, true);
  };
  const create = async (what: "file" | "folder") => {
    const path = await ask({
      title: what === "file" ? "New file" : "New folder",
      confirm: "Create",
      input: { label: "Name, with its folders", value: folder === "" ? "" : `${folder}/`, check: checkPath },
    });
    if (path === null) return;
    try {
      if (what === "folder") await makeDirectory(access, path);
      else await writeFile(access, path, "", "");
      await reveal(path);
      if (what === "file" && (await documents.open(path))) onOpened();
    } catch (error) {
      tellFailure(isConflict(error) ? `${path} exists already` : `${path} was not created`, error);
    }
  };
  /** Unfolds the way to a path and reads it. */
  const reveal = async (path: string) => {
    setSelected(path);
    const above = parentOf(path);
    const parts = above === "" ? [] : above.split("/");
    for (let n = 1; n <= parts.length; n += 1) store.fold(parts.slice(0, n).join("/"), true);
    await store.read("");
  };
  const rename = async (line: Row) => {
    const to = await ask({ title: `Rename or move ${line.name}`, confirm: "Rename", input: { label: "New name, with its folders", value: line.path, check: checkPath } });
    if (to === null || to === line.path) return;
    await attempt(`${line.name} was not renamed`, async () => {
      await renameFile(access, line.path, to);
      documents.renamed(line.path, to);
      store.renamed(line.path, to);
      setSelected(to);
    });
  };
  const remove = async (line: Row) => {
    const folderToo = line.kind === "directory";
    const sure = await confirm({
      title: `Delete ${line.name}?`,
      text: [
        folderToo ? "The folder is deleted with everything in it. This can't be undone." : "This can't be undone.",
        ...(documents.anyDirty(line.path) ? ["It has changes in the editor that are not saved."] : []),
      ],
      confirm: "Delete",
      danger: true,
    });
    if (!sure) return;
    await attempt(`${line.name} was not deleted`, async () => {
      await deleteFile(access, line.path);
      documents.removed(line.path);
      setSelected(null);
      await store.read(parentOf(line.path));
    });
  };

  const key = (event: KeyboardEvent) => {
    const index = lines.findIndex((line) => line.path === selected);
    const line = lines[index];
    const move = (to: number) => {
      const next = lines[Math.min(lines.length - 1, Math.max(0, to))];
      if (!next) return;
      setSelected(next.path);
      list.current?.querySelector<HTMLElement>(`[data-path="${CSS.escape(next.path)}"]`)?.focus();
    };
    if (event.key === "ArrowDown") move(index + 1);
    else if (event.key === "ArrowUp") move(index - 1);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(lines.length - 1);
    else if (!line) return;
    else if (event.key === "ArrowRight") line.open === false ? store.fold(line.path, true) : line.open && move(index + 1);
    else if (event.key === "ArrowLeft") {
      if (line.open) store.fold(line.path, false);
      else move(lines.findIndex((other) => other.path === parentOf(line.path)));
    } else if (event.key === "Enter" || event.key === " ") void open(line);
    else if (event.key === "F2") void rename(line);
    else if (event.key === "Delete") void remove(line);
    else return;
    event.preventDefault();
  };

  const dropOn = (path: string) => ({
    onDragOver: (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      setTarget(path);
    },
    onDragLeave: () => setTarget(null),
    onDrop: (event: DragEvent) => {
      event.preventDefault();
      event.stopPropagation();
      setTarget(null);
      if (event.dataTransfer) void dropped(event.dataTransfer).then((sources) => uploads.upload(path, sources));
    },
  });

  return (
    <section class={target === "" ? "pane files-pane target" : "pane files-pane"} aria-label="Files" hidden={!shown} {...dropOn("")}>
      <div class="pane-bar">
        <strong class="pane-title">Files</strong>
        <div class="tools">
          <button class="icon" aria-label="New file" title="New file" onClick={() => void create("file")}>
            +
          </button>
          <button class="icon" aria-label="New folder" title="New folder" onClick={() => void create("folder")}>
            <span class="glyph-folder">+</span>
          </button>
          <button class="icon" aria-label="Upload files" title={folder === "" ? "Upload" : `Upload into ${folder}`} onClick={() => picker.current?.click()}>
            ↑
          </button>
          <button class="icon" aria-label="Download everything" title="Download everything as .tar.gz" onClick={() => void attempt("Not downloaded", () => download(access, "", true))}>
            ↓
          </button>
        </div>
        <input
          ref={picker}
          type="file"
          multiple
          hidden
          data-testid="upload"
          onChange={(event) => {
            const files = [...(event.currentTarget.files ?? [])];
            event.currentTarget.value = "";
            void uploads.upload(folder, files.map((file) => ({ name: file.name, file })));
          }}
        />
      </div>
      <div class="tree" role="tree" aria-label="Files of the workspace" ref={list} onKeyDown={key}>
        {lines.map((line) => (
          <div
            key={line.path}
            role="treeitem"
            aria-level={line.depth}
            aria-selected={line.path === selected}
            aria-expanded={line.open ?? undefined}
            tabIndex={line.path === selected || (!row && line === lines[0]) ? 0 : -1}
            data-path={line.path}
            class={`node ${line.kind}${target !== null && target !== "" && isWithin(line.path, target) ? " target" : ""}`}
            style={{ "--depth": line.depth }}
            onClick={() => void open(line)}
            onPointerDown={() => (pressed.current = true)}
            onFocus={() => {
              // A pointer selects by its click: what appears at its press could come between the two.
              if (!pressed.current) setSelected(line.path);
            }}
            {...dropOn(line.open !== null ? line.path : parentOf(line.path))}
          >
            <span class="twist" aria-hidden="true">
              {line.open === null ? "" : line.open ? "▾" : "▸"}
            </span>
            <span class="label">{line.name}</span>
            {line.kind === "symlink" && <small aria-label="link">↪</small>}
          </div>
        ))}
        {[...store.tree.directories].map(([path, directory]) =>
          directory.problem !== null ? (
            <p key={`!${path}`} class="problem">
              {path === "" ? "The files" : nameOf(path)} can't be read: {directory.problem}
            </p>
          ) : directory.truncated ? (
            <p key={`…${path}`} class="hint">
              {path === "" ? "The workspace" : join("", path)} has more entries than are shown here.
            </p>
          ) : null,
        )}
        {root && root.problem === null && root.entries.length === 0 && <p class="hint">No files yet. Make one with +, or drop files here.</p>}
        {!root && <p class="hint">Reading…</p>}
      </div>
      {/* Below the tree: above it, it would push a file away from under the pointer that is about to click it. */}
      {row && (
        <div class="selection-bar" role="toolbar" aria-label={`Actions on ${row.name}`}>
          <span class="name" title={row.path}>
            {row.name}
            {row.kind === "file" && <small> {bytes(row.size)}</small>}
          </span>
          <button class="small" onClick={() => void rename(row)}>
            Rename
          </button>
          <button class="small" onClick={() => void attempt("Not downloaded", () => download(access, row.path, row.kind === "directory"))}>
            Download
          </button>
          <button class="small danger" onClick={() => void remove(row)}>
            Delete
          </button>
        </div>
      )}
      {uploads.uploads.length > 0 && (
        <ul class="uploads" aria-label="Uploads">
          {uploads.uploads.map((upload) => (
            <li key={upload.id}>
              <span class="name">{upload.path}</span>
              {upload.problem === null ? (
                <>
                  <progress max={Math.max(1, upload.size)} value={upload.sent} aria-label={`Sent of ${upload.path}`} />
                  <button class="icon" aria-label={`Stop ${upload.path}`} onClick={upload.stop}>
                    ×
                  </button>
                </>
              ) : (
                <>
                  <span class="problem">{upload.problem}</span>
                  <button class="icon" aria-label="Dismiss" onClick={() => uploads.dismiss(upload.id)}>
                    ×
                  </button>
                </>
              )}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
