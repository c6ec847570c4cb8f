import { useRef } from "preact/hooks";

export interface SplitterProps {
  /** What is resized, for screen readers. */
  label: string;
  /** The direction in which it moves. */
  axis: "x" | "y";
  /** Size of the pane before it, in per cent of the whole. */
  value: number;
  min: number;
  max: number;
  onChange(value: number): void;
}

/** A bar between two panes: dragged, or moved with the arrow keys. */
export function Splitter({ label, axis, value, min, max, onChange }: SplitterProps) {
  const ref = useRef<HTMLDivElement>(null);
  const clamp = (value: number) => Math.min(max, Math.max(min, value));
  const drag = (event: PointerEvent) => {
    const area = ref.current?.parentElement?.getBoundingClientRect();
    if (!area || !(event.buttons & 1)) return;
    const share = axis === "x" ? (event.clientX - area.left) / area.width : (event.clientY - area.top) / area.height;
    onChange(clamp(share * 100));
  };
  const key = (event: KeyboardEvent) => {
    const [less, more] = axis === "x" ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
    if (event.key === less) onChange(clamp(value - 3));
    else if (event.key === more) onChange(clamp(value + 3));
    else return;
    event.preventDefault();
  };
  return (
    <div
      ref={ref}
      class={`splitter ${axis}`}
      role="separator"
      tabIndex={0}
      aria-label={label}
      aria-orientation={axis === "x" ? "vertical" : "horizontal"}
      aria-valuenow={Math.round(value)}
      aria-valuemin={min}
      aria-valuemax={max}
      onPointerDown={(event) => {
        event.preventDefault();
        ref.current?.setPointerCapture(event.pointerId);
      }}
      onPointerMove={drag}
      onKeyDown={key}
    />
  );
}
