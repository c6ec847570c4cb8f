import { useEffect, useRef, useState } from "preact/hooks";
import type { SessionView } from "../api/types";
import { SeatAccess } from "../seat/access";
import { Link } from "../ui/Link";
import { Workbench } from "../workbench/Workbench";
import { currentSession, joinCodeOf } from "./memory";
import { SessionCodeButton } from "./SessionCode";
import { SessionWatch, type Watched } from "./sessionwatch";
import { TimeLeft } from "./TimeLeft";
import { Ended, NoSession, Unknown, Waiting } from "./Notices";

/** `/learn`: the learner's place, whatever state it is in. */
export function LearnPage() {
  const [code] = useState(currentSession);
  if (code === null) return <NoSession />;
  return <Session key={code} code={code} />;
}

function Session({ code }: { code: string }) {
  const [state, setState] = useState<Watched>({ known: "not yet", trouble: null });
  const [access, setAccess] = useState<SeatAccess | null>(null);
  const watch = useRef<SessionWatch | undefined>(undefined);
  const held = useRef<SeatAccess | null>(null);
  const seat = useRef<string | undefined>(undefined);

  useEffect(() => {
    /** Hands a fresh token to the seat in use; makes the access when the session first has a seat. */
    const take = (view: SessionView) => {
      const { token, endpoint, expires_at } = view;
      if (!token || !endpoint || !expires_at) return;
      const grant = { token, endpoint, expires_at };
      if (held.current && seat.current === endpoint) return held.current.take(grant);
      held.current?.stop();
      seat.current = endpoint;
      held.current = new SeatAccess(grant, () => watcher.grant());
      setAccess(held.current);
    };
    const watcher = new SessionWatch(code, (next) => {
      setState(next);
      if (next.known === "yes" && next.view.status === "ready") take(next.view);
      if (next.known === "never" || (next.known === "yes" && next.view.status === "ended")) {
        held.current?.stop();
        held.current = null;
        setAccess(null);
      }
    });
    watch.current = watcher;
    return () => {
      watcher.stop();
      held.current?.stop();
    };
  }, [code]);

  const view = state.known === "yes" ? state.view : null;
  useEffect(() => {
    document.title = view ? `${view.workshop_name} · ClaraTeach` : "ClaraTeach";
  }, [view?.workshop_name]);

  if (state.known === "never") return <Unknown code={code} />;
  if (view?.status === "ended") return <Ended code={code} view={view} joinCode={joinCodeOf(code)} gone={state.known === "yes" && state.gone === true} />;
  if (!access || !view) return <Waiting view={view} code={code} trouble={state.known === "yes" || state.known === "not yet" ? state.trouble : null} />;
  return (
    <Workbench
      key={access.endpoint}
      access={access}
      onTrouble={() => watch.current?.poke()}
      title={
        <>
          <Link href="/" class="brand-small">
            ClaraTeach
          </Link>
          <h1 class="workshop-name" title={view.workshop_name}>
            {view.workshop_name}
          </h1>
          <span class="seat">{view.seat === undefined ? "" : `Seat ${view.seat}`}</span>
        </>
      }
      tools={
        <>
          <TimeLeft endsAt={view.ends_at} />
          <SessionCodeButton code={code} />
        </>
      }
      banner={<Banner view={view} trouble={state.known === "yes" ? state.trouble : null} />}
    />
  );
}

/** What is the matter with the seat or the server, while the view stays. */
function Banner({ view, trouble }: { view: SessionView; trouble: string | null }) {
  const text =
    trouble !== null
      ? trouble
      : view.status === "unreachable"
        ? (view.reason ?? "Your seat does not answer at the moment. Your work in it is kept.")
        : view.status === "waiting"
          ? "Your seat is starting again. This page goes on by itself when it is there."
          : null;
  return (
    <div class="banner" role="status" hidden={text === null}>
      {text}
    </div>
  );
}
