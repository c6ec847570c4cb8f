import type { SeatView, WorkshopView } from "../api/types";
import { evictSeat, resetSeat } from "../api/workshops";
import { confirm } from "../ui/dialog";
import { ago, useServerNow } from "../ui/time";
import { attempt } from "../ui/toast";
import { seatLine, tone } from "./words";

/** All seats, live: who sits where, who is connected, what is wrong. */
export function Seats({ workshop, seats, refresh }: { workshop: WorkshopView; seats: SeatView[]; refresh(): void }) {
  const now = useServerNow(5000);
  if (seats.length === 0) return null;
  return (
    <section aria-labelledby="seats-title">
      <h2 id="seats-title">Seats</h2>
      <ul class="seats">
        {seats.map((seat) => (
          <Seat key={seat.seat} workshop={workshop} seat={seat} now={now} refresh={refresh} />
        ))}
      </ul>
    </section>
  );
}

function Seat({ workshop, seat, now, refresh }: { workshop: WorkshopView; seat: SeatView; now: number; refresh(): void }) {
  const who = seat.learner ?? (seat.joined_at === null ? null : "Somebody without a name");
  const reset = async () => {
    const sure = await confirm({
      title: `Make seat ${seat.seat} anew?`,
      text: [
        seat.joined_at !== null ? `The work of ${seat.learner ?? "the learner"} in it is lost; they keep the seat and get a fresh one.` : "What is in it is lost.",
      ],
      confirm: "Make anew",
      danger: true,
    });
    if (sure) await attempt(`Seat ${seat.seat} was not made anew`, () => resetSeat(workshop.id, seat.seat)).then(refresh);
  };
  const evict = async () => {
    const sure = await confirm({
      title: `Take seat ${seat.seat} from ${seat.learner ?? "the learner"}?`,
      text: ["Their session ends and they are told. The seat is made anew for the next learner; the work in it is lost."],
      confirm: "End the session",
      danger: true,
    });
    if (sure) await attempt(`The session was not ended`, () => evictSeat(workshop.id, seat.seat)).then(refresh);
  };
  const alive = workshop.status === "running" || workshop.status === "provisioning" || workshop.status === "error";
  const look = seat.status === "occupied" ? "Look in / help" : "Look in";
  const reachable = seat.status === "ready" || seat.status === "occupied" || seat.status === "unreachable";
  return (
    <li class={`seat-card ${tone(seat.status)}${seat.connected ? " connected" : ""}`} data-seat={seat.seat} data-status={seat.status}>
      <div class="seat-head">
        <strong>{seat.seat}</strong>
        <span class={`status ${tone(seat.status)}`}>{seatLine(seat, workshop)}</span>
      </div>
      <p class="learner">{who ?? "\u00a0"}</p>
      {seat.last_seen_at !== null && seat.joined_at !== null && !seat.connected && <p class="hint">Seen {ago(seat.last_seen_at, now)}</p>}
      {seat.reason !== null && <p class={tone(seat.status) === "bad" ? "problem" : "hint"}>{seat.reason}</p>}
      <div class="seat-actions">
        <button
          class="small"
          disabled={!reachable}
          aria-label={`${look} (seat ${seat.seat})`}
          onClick={() => {
            location.hash = `seat-${seat.seat}`;
          }}
        >
          {look}
        </button>
        <button class="small" disabled={!alive} aria-label={`Reset… (seat ${seat.seat})`} onClick={() => void reset()}>
          Reset…
        </button>
        {seat.joined_at !== null && (
          <button class="small danger" aria-label={`Evict… (seat ${seat.seat})`} onClick={() => void evict()}>
            Evict…
          </button>
        )}
      </div>
    </li>
  );
}
