import { useEffect, useRef, useState } from "preact/hooks";
import { CopyButton } from "../ui/CopyButton";

/** Shows the session code on demand: not openly, as screens are shared. */
export function SessionCodeButton({ code }: { code: string }) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    const outside = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key === "Escape") setOpen(false);
    };
    addEventListener("pointerdown", outside);
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("pointerdown", outside);
      removeEventListener("keydown", escape);
    };
  }, [open]);
  return (
    <div class="menu" ref={box}>
      <button class="small" aria-expanded={open} onClick={() => setOpen(!open)}>
        My code
      </button>
      {open && (
        <div class="menu-list wide">
          <p>Your code to come back from another device:</p>
          <p>
            <code class="secret">{code}</code> <CopyButton text={code} label="Copy" />
          </p>
          <p class="hint">Keep it to yourself: whoever has it has your seat.</p>
        </div>
      )}
    </div>
  );
}
