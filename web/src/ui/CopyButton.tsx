import { useState } from "preact/hooks";
import { copyText } from "./clipboard";

/** Copies `text`, and says that it has. */
export function CopyButton({ text, label }: { text: string; label: string }) {
  const [state, setState] = useState<"" | "Copied" | "Select and copy by hand">("");
  return (
    <button
      type="button"
      class="small"
      onClick={async () => {
        setState((await copyText(text)) ? "Copied" : "Select and copy by hand");
        setTimeout(() => setState(""), 2000);
      }}
    >
      <span aria-live="polite">{state || label}</span>
    </button>
  );
}
