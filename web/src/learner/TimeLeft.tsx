import { useEffect, useRef } from "preact/hooks";
import { tell } from "../ui/toast";
import { span, useServerNow } from "../ui/time";

/** Below this many milliseconds the time left is marked. */
const SOON = 5 * 60_000;
/** At these times before the end, in minutes, it is also said. */
const SAID = [10, 5, 1];

/** How long the workshop goes on, by the server's clock; nothing when no end is planned. */
export function TimeLeft({ endsAt }: { endsAt: string | null }) {
  const now = useServerNow(1000);
  const left = endsAt === null ? null : Date.parse(endsAt) - now;
  const before = useRef<{ endsAt: string; left: number } | null>(null);
  useEffect(() => {
    const last = before.current;
    before.current = endsAt === null || left === null ? null : { endsAt, left };
    if (left === null || last === null || last.endsAt !== endsAt) return;
    const passed = SAID.find((minutes) => last.left > minutes * 60_000 && left <= minutes * 60_000);
    if (passed !== undefined) tell(`The workshop ends in ${passed} minute${passed === 1 ? "" : "s"}. Save or download what you want to keep.`);
  }, [endsAt, left]);

  if (endsAt === null || left === null) return null;
  const at = new Date(endsAt).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return (
    <span class={left < SOON ? "time-left soon" : "time-left"} title={`Ends at ${at}`} role="timer" aria-label="Time left">
      {left > 0 ? `${span(left)} left` : "Time is up"}
    </span>
  );
}
