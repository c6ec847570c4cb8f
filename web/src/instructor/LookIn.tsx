import { useEffect, useRef, useState } from "preact/hooks";
import { sentence } from "../api/error";
import { getSeats, seatToken } from "../api/workshops";
import { SeatAccess } from "../seat/access";
import { Workbench } from "../workbench/Workbench";

/** An instructor in a learner's seat: the same view, as one more viewer who may type. */
export function LookIn({ id, seat }: { id: string; seat: number }) {
  const [access, setAccess] = useState<SeatAccess | null>(null);
  const [learner, setLearner] = useState<string | null>(null);
  const [problem, setProblem] = useState<string | null>(null);

  useEffect(() => {
    let stopped = false;
    let held: SeatAccess | undefined;
    let timer: ReturnType<typeof setTimeout>;
    const begin = async () => {
      try {
        const grant = await seatToken(id, seat);
        if (stopped) return;
        held = new SeatAccess(grant, () => seatToken(id, seat));
        setAccess(held);
        setProblem(null);
      } catch (error) {
        if (stopped) return;
        setProblem(sentence(error));
        timer = setTimeout(() => void begin(), 2000);
      }
    };
    void begin();
    getSeats(id).then(
      (seats) => setLearner(seats.find((other) => other.seat === seat)?.learner ?? null),
      () => undefined,
    );
    return () => {
      stopped = true;
      clearTimeout(timer);
      held?.stop();
    };
  }, [id, seat]);

  /** Asks the server what is the matter, when the seat does not answer. */
  const asking = useRef(false);
  const look = async () => {
    if (asking.current) return;
    asking.current = true;
    try {
      access?.take(await seatToken(id, seat));
      setProblem(null);
    } catch (error) {
      setProblem(sentence(error));
    } finally {
      asking.current = false;
    }
  };

  const leave = () => {
    history.replaceState(null, "", location.pathname);
    dispatchEvent(new Event("hashchange"));
  };
  const back = (
    <button class="small" onClick={leave}>
      Leave the seat
    </button>
  );
  if (!access) {
    return (
      <div class="card" role="status">
        <h1>Seat {seat}</h1>
        <p>{problem ?? "Opening the seat…"}</p>
        {back}
      </div>
    );
  }
  return (
    <div class="overlay">
      <Workbench
        access={access}
        visitor
        onTrouble={() => void look()}
        banner={
          <div class="banner" role="status" hidden={problem === null}>
            {problem}
          </div>
        }
        title={
          <>
            <h1 class="workshop-name">
              Seat {seat}
              {learner === null ? "" : ` · ${learner}`}
            </h1>
            <span class="seat">You see what the learner sees, and what you type counts.</span>
          </>
        }
        tools={back}
      />
    </div>
  );
}
