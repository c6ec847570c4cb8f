import { useEffect, useState } from "preact/hooks";
import { sentence } from "../api/error";

interface Toast {
  id: number;
  text: string;
  kind: "info" | "error";
  action?: { label: string; run(): void };
}

let show: ((toast: Toast) => void) | undefined;
let next = 1;

/** Says something in the corner of the page, and to screen readers. */
export function tell(text: string, options: { kind?: Toast["kind"]; action?: Toast["action"] } = {}): void {
  const toast: Toast = { id: next, text, kind: options.kind ?? "info" };
  if (options.action) toast.action = options.action;
  next += 1;
  show?.(toast);
}

/** Says that something did not work, and why. */
export function tellFailure(what: string, error: unknown): void {
  tell(`${what}: ${sentence(error)}`, { kind: "error" });
}

/** Runs an action and says so when it fails. */
export async function attempt(what: string, action: () => Promise<unknown>): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    tellFailure(what, error);
    return false;
  }
}

/** Where messages appear; once per page. */
export function ToastHost() {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const drop = (id: number) => setToasts((toasts) => toasts.filter((toast) => toast.id !== id));
  useEffect(() => {
    show = (toast) => {
      setToasts((toasts) => [...toasts.filter((t) => t.text !== toast.text).slice(-3), toast]);
      setTimeout(() => drop(toast.id), toast.kind === "error" ? 12_000 : 7000);
    };
    return () => {
      show = undefined;
    };
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.map((toast) => (
        <div key={toast.id} class={`toast ${toast.kind}`}>
          <span>{toast.text}</span>
          {toast.action && (
            <button
              class="small"
              onClick={() => {
                toast.action?.run();
                drop(toast.id);
              }}
            >
              {toast.action.label}
            </button>
          )}
          <button class="icon" aria-label="Dismiss" onClick={() => drop(toast.id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}
