import type { ExtraKey } from "./keys";

export interface KeyRowProps {
  press(key: ExtraKey): void;
  type(text: string): void;
  control: boolean;
  setControl(on: boolean): void;
  copy(): void;
  paste(): void;
  focus(): void;
}

const KEYS: [ExtraKey, string, string][] = [
  ["esc", "Esc", "Esc"],
  ["tab", "Tab", "Tab"],
];
const ARROWS: [ExtraKey, string, string][] = [
  ["left", "←", "Left"],
  ["down", "↓", "Down"],
  ["up", "↑", "Up"],
  ["right", "→", "Right"],
];

/** The keys that touch keyboards lack. A press must not take the focus, or the touch keyboard would close. */
export function KeyRow(props: KeyRowProps) {
  const keep = (event: Event) => event.preventDefault();
  const key = ([key, label, name]: [ExtraKey, string, string]) => (
    <button key={key} tabIndex={-1} aria-label={name} onPointerDown={keep} onClick={() => props.press(key)}>
      {label}
    </button>
  );
  return (
    <div class="key-row" role="toolbar" aria-label="Extra keys">
      {KEYS.map(key)}
      <button
        tabIndex={-1}
        aria-pressed={props.control}
        onPointerDown={keep}
        onClick={() => {
          props.setControl(!props.control);
          props.focus();
        }}
      >
        Ctrl
      </button>
      <button tabIndex={-1} aria-label="Control C: interrupt" onPointerDown={keep} onClick={() => props.type("\x03")}>
        ^C
      </button>
      {ARROWS.map(key)}
      {["|", "/", "~", "-"].map((text) => (
        <button key={text} tabIndex={-1} onPointerDown={keep} onClick={() => props.type(text)}>
          {text}
        </button>
      ))}
      <button tabIndex={-1} onPointerDown={keep} onClick={props.copy}>
        Copy
      </button>
      <button tabIndex={-1} onPointerDown={keep} onClick={props.paste}>
        Paste
      </button>
    </div>
  );
}
