import { useEffect, useRef, useState } from "preact/hooks";
import type { SeatAccess } from "../seat/access";
import type { Listener } from "../seat/ports";
import { attempt, tell } from "../ui/toast";
import { showPreview } from "./open";

export interface PortsMenuProps {
  access: SeatAccess;
  /** The seat's listeners; null until they are known. */
  ports: Listener[] | null;
  refresh(): void;
}

/** What listens in the seat, each to be opened as a preview. */
export function PortsMenu({ access, ports, refresh }: PortsMenuProps) {
  const [open, setOpen] = useState(false);
  const menu = useRef<HTMLDivElement>(null);
  const known = useRef<Set<number> | null>(null);
  const usable = unique((ports ?? []).filter((listener) => listener.preview));

  const show = (port: number) => {
    setOpen(false);
    void attempt(`No preview of port ${port}`, () => showPreview(access, port));
  };

  // A server that starts is announced once; those that ran before the page opened are not news.
  useEffect(() => {
    if (ports === null) return;
    const now = new Set(usable.map((listener) => listener.port));
    if (known.current !== null) {
      for (const port of now) {
        if (!known.current.has(port)) tell(`Something listens on port ${port} now.`, { action: { label: "Open", run: () => show(port) } });
      }
    }
    known.current = now;
  }, [ports]);

  useEffect(() => {
    if (!open) return;
    const outside = (event: Event) => {
      if (!menu.current?.contains(event.target as Node)) setOpen(false);
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      setOpen(false);
      menu.current?.querySelector("button")?.focus();
    };
    addEventListener("pointerdown", outside);
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("pointerdown", outside);
      removeEventListener("keydown", escape);
    };
  }, [open]);

  return (
    <div class="menu" ref={menu}>
      <button
        class="small"
        aria-expanded={open}
        aria-controls="ports-menu"
        onClick={() => {
          if (!open) refresh();
          setOpen(!open);
        }}
      >
        Preview{usable.length > 0 ? ` (${usable.length})` : ""}
      </button>
      {open && (
        <div class="menu-list" id="ports-menu">
          {usable.length === 0 && (
            <p class="hint">
              Nothing to preview yet. Start a server in the terminal, for example <code>python3 -m http.server 8000</code>.
            </p>
          )}
          {usable.map((listener) => (
            <button key={listener.port} onClick={() => show(listener.port)}>
              Open port {listener.port} <small>{listener.address}</small>
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

function unique(listeners: Listener[]): Listener[] {
  return listeners.filter((listener, index) => listeners.findIndex((other) => other.port === listener.port) === index);
}
