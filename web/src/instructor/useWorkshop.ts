import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, errorOf, sentence } from "../api/error";
import { subscribe } from "../api/eventstream";
import type { SeatView, WorkshopView } from "../api/types";
import { eventsPath, getSeats, getWorkshop } from "../api/workshops";

export interface Watching {
  workshop: WorkshopView | null;
  seats: SeatView[];
  /** It was there and is not any more, or never was. */
  gone: boolean;
  /** Why the page may be out of date, or null. */
  problem: string | null;
  /** Reads now. */
  refresh(): void;
}

/** How often to read even without an event, in ms: `last_seen_at` and a missed event show by then. */
const EVERY = 5000;
/** Events that come within this many ms are one reading. */
const GATHER = 150;

/** A workshop and its seats, kept up to date by its event stream. */
export function useWorkshop(id: string): Watching {
  const [workshop, setWorkshop] = useState<WorkshopView | null>(null);
  const [seats, setSeats] = useState<SeatView[]>([]);
  const [gone, setGone] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const refresh = useRef(() => {});

  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    let reading = false;
    let again = false;
    const soon = (delay: number) => {
      clearTimeout(timer);
      if (!stopped) timer = setTimeout(() => void read(), delay);
    };
    const read = async () => {
      if (reading) {
        again = true;
        return;
      }
      reading = true;
      let next = EVERY;
      try {
        const [workshop, seats] = await Promise.all([getWorkshop(id), getSeats(id)]);
        if (stopped) return;
        setWorkshop(workshop);
        setSeats(seats);
        setProblem(null);
        if (workshop.status !== "running" && workshop.status !== "stopped") next = 1000;
      } catch (error) {
        if (stopped) return;
        if (error instanceof ApiError && error.status === 404) {
          setGone(true);
          stopped = true;
          unsubscribe();
          return;
        }
        if (error instanceof ApiError && error.status === 401) return location.reload();
        setProblem(sentence(error));
        next = 2000;
      } finally {
        reading = false;
      }
      soon(again ? 0 : next);
      again = false;
    };
    refresh.current = () => soon(0);
    const unsubscribe = subscribe({
      async open(lastId, signal) {
        const response = await fetch(eventsPath(id), {
          signal,
          cache: "no-store",
          headers: { Accept: "text/event-stream", ...(lastId === "" ? {} : { "Last-Event-ID": lastId }) },
        });
        if (!response.ok) throw await errorOf(response);
        return response;
      },
      onEvent: () => soon(GATHER),
    });
    void read();
    return () => {
      stopped = true;
      clearTimeout(timer);
      unsubscribe();
    };
  }, [id]);

  return { workshop, seats, gone, problem, refresh: () => refresh.current() };
}

