import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { SeatAccess } from "../seat/access";
import { download } from "../seat/files";
import { attempt } from "../ui/toast";
import type { CodeEditorProps } from "./CodeEditor";
import type { Document } from "./documents";
import { bytes, nameOf } from "./paths";
import type { DocumentStore } from "./useDocuments";

/** The open files as tabs, with the editor of the one in front. */
export function EditorPane({ access, store, shown }: { access: SeatAccess; store: DocumentStore; shown: boolean }) {
  const [Editor, setEditor] = useState<{ it: ComponentType<CodeEditorProps> } | null>(null);
  const { open, active } = store.documents;
  useEffect(() => {
    if (open.length > 0 && !Editor) {
      void attempt("The editor can't be loaded", async () => setEditor({ it: (await import("./CodeEditor")).default }));
    }
  }, [open.length > 0]);
  const current = open.find((document) => document.path === active);

  return (
    <section class="pane editor-pane" aria-label="Editor" hidden={!shown}>
      <div class="pane-bar">
        <div class="tabs" role="group" aria-label="Open files">
          {open.map((document) => (
            <span key={document.path} class={document.path === active ? "tab active" : "tab"}>
              <button class="tab-name" aria-current={document.path === active ? "true" : undefined} title={document.path} onClick={() => store.show(document.path)}>
                {nameOf(document.path)}
                {document.dirty && <span class="dirty" role="img" aria-label="not saved"> ●</span>}
              </button>
              <button class="icon" aria-label={`Close ${document.path}`} onClick={() => void store.close(document.path)}>
                ×
              </button>
            </span>
          ))}
        </div>
        {current?.kind === "text" && (
          <div class="tools">
            <button
              class={current.dirty ? "small primary" : "small"}
              disabled={!current.dirty || current.saving || current.conflict !== null}
              title="Save (Ctrl+S)"
              onClick={() => void store.save(current.path)}
            >
              {current.saving ? "Saving…" : current.dirty ? "Save" : "Saved"}
            </button>
          </div>
        )}
      </div>
      {current?.conflict && <Conflict document={current} store={store} />}
      <div class="editor-stack">
        {open.map((document) =>
          document.kind !== "text" ? (
            <NotText key={document.path} access={access} document={document} shown={document.path === active} />
          ) : (
            Editor && (
              <Editor.it
                key={document.path}
                document={document}
                shown={shown && document.path === active}
                onDirty={(dirty) => store.edited(document.path, dirty)}
                onSave={() => void store.save(document.path)}
                onReader={(read) => store.reader(document.path, read)}
              />
            )
          ),
        )}
        {open.length === 0 && (
          <div class="empty">
            <p>Open a file from the list to edit it here.</p>
          </div>
        )}
      </div>
    </section>
  );
}

/** The file changed under unsaved edits: nothing is written until the user has chosen. */
function Conflict({ document, store }: { document: Document; store: DocumentStore }) {
  const { path } = document;
  return (
    <div class="conflict" role="alert">
      <span>
        {document.conflict?.what === "deleted"
          ? "This file was deleted or moved while you were editing it."
          : "This file was changed on disk while you were editing it."}
      </span>
      {document.conflict?.what === "changed" && (
        <button class="small" onClick={() => void store.takeTheirs(path)}>
          Take what is on disk
        </button>
      )}
      <button class="small" onClick={() => void store.saveCopy(path)}>
        Save mine as a copy…
      </button>
      <button class="small danger" onClick={() => void store.overwrite(path)}>
        {document.conflict?.what === "deleted" ? "Write it again" : "Overwrite with mine"}
      </button>
    </div>
  );
}

function NotText({ access, document, shown }: { access: SeatAccess; document: Document; shown: boolean }) {
  return (
    <div class="empty" hidden={!shown}>
      <p>
        <strong>{nameOf(document.path)}</strong>{" "}
        {document.kind === "large" ? "is too large to be edited here." : `is not a text file (${bytes(document.size)}), so it is not shown here.`}
      </p>
      <button class="primary" onClick={() => void attempt("Not downloaded", () => download(access, document.path, false))}>
        Download
      </button>
    </div>
  );
}
