import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { SeatAccess } from "../seat/access";
import { TerminalLink } from "../seat/link";
import type { LinkState } from "../seat/reconnect";
import { pasteText } from "../ui/clipboard";
import { ask } from "../ui/dialog";
import { tell } from "../ui/toast";
import { Emulator } from "./emulator";
import { keyBytes, withControl, type ExtraKey } from "./keys";
import { KeyRow } from "./KeyRow";
import { SearchBar } from "./SearchBar";

export interface TerminalViewProps {
  access: SeatAccess;
  id: number;
  shown: boolean;
  fontSize: number;
  showKeys: boolean;
  /** Grabs the keyboard when it is shown. */
  focus: boolean;
  /** Keeps to the size that another viewer has set, even when this one types. */
  follow: boolean;
  /** The seat does not know this terminal any more. */
  gone: boolean;
  onFontSize(change: 1 | -1 | 0): void;
  onState(state: LinkState): void;
  onTrouble(): void;
  onNew(): void;
  onClose(): void;
}

const encoder = new TextEncoder();

/** One terminal: the emulator joined to its link. */
export function TerminalView(props: TerminalViewProps) {
  const { access, id, shown, fontSize } = props;
  const host = useRef<HTMLDivElement>(null);
  const emulator = useRef<Emulator | undefined>(undefined);
  const link = useRef<TerminalLink | undefined>(undefined);
  const latest = useRef(props);
  latest.current = props;
  const control = useRef(false);
  const [controlOn, setControlOn] = useState(false);
  const [searching, setSearching] = useState(false);
  const [exit, setExit] = useState<number | null>(null);
  const [state, setState] = useState<LinkState>({ phase: "connecting", attempt: 0 });
  const [guest, setGuest] = useState(false);
  /** Why the seat gives no terminal, if it says so. */
  const [refusal, setRefusal] = useState<string | null>(null);

  const setControl = (on: boolean) => {
    control.current = on;
    setControlOn(on);
  };

  useLayoutEffect(() => {
    const parent = host.current;
    if (!parent) return;
    const em = new Emulator(parent, latest.current.fontSize, {
      search: () => setSearching(true),
      fontSize: (change) => latest.current.onFontSize(change),
    });
    emulator.current = em;
    const { terminal } = em;
    /** Whether the size is ours to decide. */
    let writer = true;
    let greeted = false;

    /** Asks for the size that fits here, if it is ours to decide. */
    const refit = () => {
      if (!writer) return;
      const room = em.roomFor();
      if (!room) return;
      if (room.cols !== terminal.cols || room.rows !== terminal.rows) terminal.resize(room.cols, room.rows);
      lk.resize(room.cols, room.rows);
    };
    const send = (text: string) => {
      if (!lk.send(encoder.encode(text))) tell("Too much input is waiting for this terminal.", { kind: "error" });
    };

    const lk = new TerminalLink(access, id, {
      write: (data, done) => terminal.write(data, done),
      reset: () => terminal.reset(),
      size: (cols, rows, mine) => {
        const decides = mine && (writer || !greeted || !latest.current.follow);
        const became = decides && !writer;
        writer = decides;
        greeted = true;
        setGuest(!decides);
        if (!decides) terminal.resize(cols, rows);
        else if (became) refit();
      },
      state: (next) => {
        setState(next);
        if (next.phase === "open") setRefusal(null);
        if (next.phase === "connecting") greeted = false;
        latest.current.onState(next);
      },
      exited: (code) => setExit(code),
      refused: (code, message) => {
        if (greeted) tell(message || code, { kind: "error" });
        else setRefusal(message || code);
      },
      trouble: () => latest.current.onTrouble(),
    });
    link.current = lk;
    const first = em.roomFor();
    if (first) {
      terminal.resize(first.cols, first.rows);
      if (!latest.current.follow) lk.resize(first.cols, first.rows);
    }

    const data = terminal.onData((text) => {
      if (control.current) {
        setControl(false);
        send(withControl(text));
      } else {
        send(text);
      }
    });
    const binary = terminal.onBinary((text) => lk.send(Uint8Array.from(text, (c) => c.charCodeAt(0) & 0xff)));
    let frame = 0;
    const observer = new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(refit);
    });
    observer.observe(parent);
    return () => {
      cancelAnimationFrame(frame);
      observer.disconnect();
      data.dispose();
      binary.dispose();
      lk.close();
      em.dispose();
    };
  }, [access, id]);

  useEffect(() => {
    const em = emulator.current;
    const parent = host.current;
    if (!em || !parent) return;
    em.terminal.options.fontSize = fontSize;
    const room = em.roomFor();
    if (room && !guest) {
      em.terminal.resize(room.cols, room.rows);
      link.current?.resize(room.cols, room.rows);
    }
  }, [fontSize, guest]);

  useEffect(() => {
    if (shown && props.focus) emulator.current?.terminal.focus();
  }, [shown, props.focus]);

  const press = (key: ExtraKey) => {
    const em = emulator.current;
    if (!em) return;
    em.terminal.input(keyBytes(key, em.terminal.modes.applicationCursorKeysMode));
  };
  const paste = async () => {
    const text =
      (await pasteText()) ??
      (await ask({ title: "Paste into the terminal", confirm: "Paste", input: { label: "Put the text here", multiline: true } }));
    if (text) emulator.current?.terminal.paste(text);
    emulator.current?.terminal.focus();
  };
  const copy = async () => {
    const em = emulator.current;
    if (!em) return;
    if (em.terminal.hasSelection()) {
      em.copySelection();
      tell("Copied.");
      return;
    }
    await ask({
      title: "Copy from the terminal",
      text: ["Select what you need below and copy it."],
      confirm: "Done",
      input: { label: "The last 500 lines", value: em.text(500), multiline: true },
    });
  };

  return (
    <div class="terminal-view" hidden={!shown}>
      {searching && emulator.current && (
        <SearchBar
          search={emulator.current.search}
          close={() => {
            setSearching(false);
            emulator.current?.search.clearDecorations();
            emulator.current?.terminal.focus();
          }}
        />
      )}
      <div class={guest ? "terminal-host guest" : "terminal-host"} ref={host} data-terminal={id} />
      {exit !== null || (props.gone && state.phase !== "open") ? (
        <div class="terminal-note" role="status">
          <span>{exit === null ? "This terminal is gone: it was closed elsewhere, or the seat was started anew." : exit === 0 ? "The shell has ended." : `The shell has ended with code ${exit}.`}</span>
          <button class="small primary" onClick={props.onNew}>
            New terminal
          </button>
          <button class="small" onClick={props.onClose}>
            Close this one
          </button>
        </div>
      ) : (
        (state.phase === "waiting" || (state.phase === "connecting" && state.attempt > 0)) && (
          <div class="terminal-note" role="status">
            {refusal ?? "Connection lost; coming back. Your programs keep running, and what you type is kept."}
          </div>
        )
      )}
      {guest && exit === null && state.phase === "open" && (
        <div class="terminal-note slim">Its size is set by another window that shows this terminal.</div>
      )}
      {props.showKeys && (
        <KeyRow press={press} control={controlOn} setControl={setControl} type={(text) => emulator.current?.terminal.input(text)} copy={copy} paste={paste} focus={() => emulator.current?.terminal.focus()} />
      )}
    </div>
  );
}
