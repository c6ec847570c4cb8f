import { useEffect, useRef, useState } from "preact/hooks";
import { sentence } from "../api/error";
import { isMissing, type SeatAccess } from "../seat/access";
import type { LinkState } from "../seat/reconnect";
import { closeTerminal, listTerminals, newTerminal } from "../seat/terminals";
import { confirm } from "../ui/dialog";
import { useStored } from "../ui/stored";
import { attempt, tellFailure } from "../ui/toast";
import { added, closed, merge, type Tabs } from "./tabs";
import { TerminalView } from "./TerminalView";

export interface TerminalPaneProps {
  access: SeatAccess;
  /** Whether the pane can be seen at all. */
  shown: boolean;
  /** Keeps to the size that another viewer has set. */
  follow: boolean;
  onState(state: LinkState): void;
  onTrouble(): void;
}

const FONT_SIZES = { least: 9, usual: 14, most: 28 };

/** The terminals of a seat as tabs. */
export function TerminalPane({ access, shown, follow, onState, onTrouble }: TerminalPaneProps) {
  const [tabs, setTabs] = useState<Tabs>({ ids: [], active: null });
  const [ended, setEnded] = useState<Set<number>>(new Set());
  const [gone, setGone] = useState<Set<number>>(new Set());
  const [seen, setSeen] = useState<Set<number>>(new Set());
  const [problem, setProblem] = useState<string | null>(null);
  const [fontSize, setFontSize] = useStored("clarateach.font-size", FONT_SIZES.usual);
  const [keys, setKeys] = useStored("clarateach.extra-keys", matchMedia("(pointer: coarse)").matches);
  const busy = useRef(false);
  const again = useRef(() => {});

  /** Reads the seat's list; makes the first terminal if there is none. Repeats until it has been read once. */
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    const read = async (first: boolean) => {
      try {
        let list = await listTerminals(access);
        if (first && !list.some((terminal) => terminal.status === "running")) list = [...list, await newTerminal(access)];
        if (stopped) return;
        const running = list.find((terminal) => terminal.status === "running")?.id ?? null;
        setTabs((tabs) => {
          const next = merge(tabs, list, running);
          setGone(new Set(next.ids.filter((id) => !list.some((terminal) => terminal.id === id))));
          return next;
        });
        setProblem(null);
      } catch (error) {
        if (stopped || !first) return;
        setProblem(sentence(error));
        onTrouble();
        timer = setTimeout(() => void read(true), 1500);
      }
    };
    void read(true);
    const focused = () => void read(false);
    again.current = focused;
    addEventListener("focus", focused);
    return () => {
      stopped = true;
      clearTimeout(timer);
      removeEventListener("focus", focused);
    };
  }, [access]);

  useEffect(() => {
    const { active } = tabs;
    if (active !== null && !seen.has(active)) setSeen(new Set([...seen, active]));
  }, [tabs.active]);

  const open = async () => {
    if (busy.current) return;
    busy.current = true;
    await attempt("No new terminal", async () => {
      const terminal = await newTerminal(access);
      setTabs((tabs) => added(tabs, terminal.id));
    });
    busy.current = false;
  };
  const close = async (id: number) => {
    if (!ended.has(id) && !gone.has(id)) {
      const sure = await confirm({
        title: `Close terminal ${id}?`,
        text: ["Programs that run in it are ended."],
        confirm: "Close it",
        danger: true,
      });
      if (!sure) return;
    }
    try {
      await closeTerminal(access, id);
    } catch (error) {
      if (!isMissing(error)) return tellFailure("The terminal was not closed", error);
    }
    setTabs((tabs) => closed(tabs, id));
  };
  const changeFont = (change: 1 | -1 | 0) => {
    const next = change === 0 ? FONT_SIZES.usual : fontSize + change;
    setFontSize(Math.min(FONT_SIZES.most, Math.max(FONT_SIZES.least, next)));
  };
  return (
    <section class="pane terminal-pane" aria-label="Terminal" hidden={!shown}>
      <div class="pane-bar">
        <div class="tabs" role="group" aria-label="Terminals">
          {tabs.ids.map((id) => (
            <span key={id} class={id === tabs.active ? "tab active" : "tab"}>
              <button
                class="tab-name"
                aria-current={id === tabs.active ? "true" : undefined}
                onClick={() => setTabs({ ...tabs, active: id })}
              >
                Terminal {id}
                {ended.has(id) ? " (ended)" : ""}
              </button>
              <button class="icon" aria-label={`Close terminal ${id}`} onClick={() => void close(id)}>
                ×
              </button>
            </span>
          ))}
          <button class="icon" aria-label="New terminal" title="New terminal" onClick={() => void open()}>
            +
          </button>
        </div>
        <div class="tools">
          <button class="icon" aria-label="A−: smaller text" title="Smaller text (Ctrl+Shift+−)" onClick={() => changeFont(-1)}>
            A−
          </button>
          <button class="icon" aria-label="A+: larger text" title="Larger text (Ctrl+Shift++)" onClick={() => changeFont(1)}>
            A+
          </button>
          <button class="icon" aria-label="Extra keys" aria-pressed={keys} title="Extra keys, copy and paste" onClick={() => setKeys(!keys)}>
            ⌨
          </button>
        </div>
      </div>
      <div class="terminal-stack">
        {tabs.ids
          .filter((id) => seen.has(id))
          .map((id) => (
            <TerminalView
              key={id}
              access={access}
              id={id}
              shown={id === tabs.active}
              focus={shown}
              follow={follow}
              gone={gone.has(id)}
              fontSize={fontSize}
              showKeys={keys}
              onFontSize={changeFont}
              onTrouble={() => {
                again.current();
                onTrouble();
              }}
              onState={(state) => {
                if (state.phase === "over" && state.why === "exit") setEnded((ended) => new Set([...ended, id]));
                onState(state);
              }}
              onNew={() => void open().then(() => close(id))}
              onClose={() => void close(id)}
            />
          ))}
        {tabs.ids.length === 0 && (
          <div class="empty">
            {problem === null ? (
              <p>No terminal is open.</p>
            ) : (
              <p role="status">The terminals can't be reached: {problem} Trying again…</p>
            )}
            {problem === null && (
              <button class="primary" onClick={() => void open()}>
                New terminal
              </button>
            )}
          </div>
        )}
      </div>
    </section>
  );
}
