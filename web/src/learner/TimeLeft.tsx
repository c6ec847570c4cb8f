import { span, useServerNow } from "../ui/time";

/** Below this many milliseconds the time left is marked. */
const SOON = 5 * 60_000;

/** How long the workshop goes on, by the server's clock; nothing when no end is planned. */
export function TimeLeft({ endsAt }: { endsAt: string | null }) {
  const now = useServerNow(1000);
  if (endsAt === null) return null;
  const left = Date.parse(endsAt) - now;
  const at = new Date(endsAt).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return (
    <span class={left < SOON ? "time-left soon" : "time-left"} title={`Ends at ${at}`} role="timer" aria-label="Time left">
      {left > 0 ? `${span(left)} left` : "Time is up"}
    </span>
  );
}
