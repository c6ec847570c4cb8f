import type { ISearchOptions, SearchAddon } from "@xterm/addon-search";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

const OPTIONS: ISearchOptions = {
  decorations: {
    matchBackground: "#8a6d1f",
    matchOverviewRuler: "#c9a227",
    activeMatchBackground: "#c2570c",
    activeMatchColorOverviewRuler: "#f97316",
  },
};

/** Searches the scrollback. Enter goes up, where the older output is; Shift+Enter down. */
export function SearchBar({ search, close }: { search: SearchAddon; close(): void }) {
  const field = useRef<HTMLInputElement>(null);
  const [found, setFound] = useState("");
  // Before the next event can come: a search that is typed at once must not go by unseen.
  useLayoutEffect(() => {
    field.current?.focus();
    const results = search.onDidChangeResults(({ resultIndex, resultCount }) =>
      setFound(resultCount === 0 ? "nothing found" : `${resultIndex + 1} of ${resultCount}`),
    );
    return () => results.dispose();
  }, [search]);
  const find = (back: boolean, incremental = false) => {
    const text = field.current?.value ?? "";
    if (text === "") {
      search.clearDecorations();
      setFound("");
    } else if (back) search.findPrevious(text, OPTIONS);
    else search.findNext(text, { ...OPTIONS, incremental });
  };
  return (
    <div class="search-bar" role="search">
      <input
        ref={field}
        aria-label="Search the terminal"
        placeholder="Search"
        onInput={() => find(true, true)}
        onKeyDown={(event) => {
          if (event.key === "Enter") find(!event.shiftKey);
          else if (event.key === "Escape") close();
          else return;
          event.preventDefault();
        }}
      />
      <span class="hint" aria-live="polite">
        {found}
      </span>
      <button class="icon" aria-label="Previous match" onClick={() => find(true)}>
        ↑
      </button>
      <button class="icon" aria-label="Next match" onClick={() => find(false)}>
        ↓
      </button>
      <button class="icon" aria-label="Close search" onClick={close}>
        ×
      </button>
    </div>
  );
}
