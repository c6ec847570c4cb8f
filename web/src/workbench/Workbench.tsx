import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { EditorPane } from "../files/EditorPane";
import { FilesPane } from "../files/FilesPane";
import { useDocuments } from "../files/useDocuments";
import { useTree } from "../files/useTree";
import { PortsMenu } from "../preview/PortsMenu";
import type { SeatAccess } from "../seat/access";
import { followSeat } from "../seat/events";
import { listPorts, type Listener } from "../seat/ports";
import type { LinkState } from "../seat/reconnect";
import { TerminalPane } from "../terminal/TerminalPane";
import { Splitter } from "../ui/Splitter";
import { useStored } from "../ui/stored";
import { useMedia } from "./useMedia";
import "../styles/workbench.css";

export type Connection = "connecting" | "connected" | "lost";

export interface WorkbenchProps {
  access: SeatAccess;
  /** What stands at the left of the header. */
  title: ComponentChildren;
  /** What stands at its right, after the preview menu. */
  tools?: ComponentChildren;
  /** A sentence across the page, such as that the seat is unreachable. */
  banner?: ComponentChildren;
  /** Whether this is one more viewer, who leaves the size of terminals to the learner. */
  visitor?: boolean;
  /** The connection to the seat broke: the page may want to ask the server why. */
  onTrouble(): void;
}

type Part = "files" | "editor" | "terminal";

/** A seat to work in: files, editor and terminal; side by side, or one at a time on a narrow screen. */
export function Workbench({ access, title, tools, banner, visitor = false, onTrouble }: WorkbenchProps) {
  const narrow = useMedia("(max-width: 760px)");
  const [part, setPart] = useState<Part>("terminal");
  const [filesWidth, setFilesWidth] = useStored("clarateach.files-width", 22);
  const [editorHeight, setEditorHeight] = useStored("clarateach.editor-height", 55);
  const [filesOpen, setFilesOpen] = useStored("clarateach.files-open", true);
  const [connection, setConnection] = useState<Connection>("connecting");
  const [ports, setPorts] = useState<Listener[] | null>(null);
  const tree = useTree(access);
  const documents = useDocuments(access);
  const on = useRef({ tree, documents });
  on.current = { tree, documents };

  const readPorts = () => void listPorts(access).then(setPorts, () => undefined);
  useEffect(() => {
    readPorts();
    return followSeat(access, {
      files(directories, overflow) {
        on.current.tree.diskChanged(directories, overflow);
        on.current.documents.diskChanged(directories, overflow);
      },
      ports: setPorts,
    });
  }, [access]);

  const linked = (state: LinkState) => {
    if (state.phase === "open") setConnection("connected");
    else if (state.phase === "waiting" || (state.phase === "connecting" && state.attempt > 0)) setConnection("lost");
  };

  const editing = documents.documents.open.length > 0;
  const shows = {
    files: narrow ? part === "files" : filesOpen,
    editor: narrow ? part === "editor" : editing,
    terminal: !narrow || part === "terminal",
  };
  const columns = narrow || !filesOpen ? "minmax(0, 1fr)" : `minmax(150px, ${filesWidth}%) 7px minmax(0, 1fr)`;
  const rows = narrow || !editing ? "minmax(0, 1fr)" : `minmax(80px, ${editorHeight}%) 7px minmax(0, 1fr)`;

  return (
    <div class={narrow ? "workbench narrow" : "workbench"}>
      <header class="workbench-bar">
        <div class="workbench-title">
          {!narrow && (
            <button class="icon" aria-label="Files" aria-pressed={filesOpen} title="Show or hide the files" onClick={() => setFilesOpen(!filesOpen)}>
              ☰
            </button>
          )}
          {title}
        </div>
        <div class="workbench-tools">
          <span class={`connection ${connection}`} role="status">
            {connection === "connected" ? "Connected" : connection === "lost" ? "Reconnecting…" : "Connecting…"}
          </span>
          <PortsMenu access={access} ports={ports} refresh={readPorts} />
          {tools}
        </div>
      </header>
      {banner}
      <div class="workbench-body" style={{ gridTemplateColumns: columns }}>
        <FilesPane access={access} store={tree} documents={documents} shown={shows.files} onOpened={() => setPart("editor")} />
        {!narrow && filesOpen && (
          <Splitter label="Width of the files" axis="x" value={filesWidth} min={10} max={50} onChange={setFilesWidth} />
        )}
        <div class="workbench-main" style={{ gridTemplateRows: rows }} hidden={narrow && part === "files"}>
          <EditorPane access={access} store={documents} shown={shows.editor} />
          {!narrow && editing && (
            <Splitter label="Height of the editor" axis="y" value={editorHeight} min={10} max={90} onChange={setEditorHeight} />
          )}
          <TerminalPane access={access} shown={shows.terminal} follow={visitor} onState={linked} onTrouble={onTrouble} />
        </div>
      </div>
      {narrow && (
        <nav class="workbench-nav" aria-label="Parts of the workbench">
          {(["files", "editor", "terminal"] as const).map((name) => (
            <button key={name} aria-current={part === name ? "true" : undefined} onClick={() => setPart(name)}>
              {name === "files" ? "Files" : name === "editor" ? "Editor" : "Terminal"}
              {name === "editor" && documents.documents.open.some((d) => d.dirty) && <span aria-label="not saved"> ●</span>}
            </button>
          ))}
        </nav>
      )}
    </div>
  );
}
