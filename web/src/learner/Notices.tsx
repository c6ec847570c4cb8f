import { useEffect } from "preact/hooks";
import type { SessionView } from "../api/types";
import { go } from "../router";
import { CopyButton } from "../ui/CopyButton";
import { Link } from "../ui/Link";
import { forget, prettyCode } from "./memory";
import { TimeLeft } from "./TimeLeft";

/** In line for a seat, or before the first answer. Says the place that the server gave, and nothing it does not know. */
export function Waiting({ view, code, trouble }: { view: SessionView | null; code: string; trouble: string | null }) {
  const starting = view !== null && view.seat !== undefined;
  return (
    <main class="start" aria-busy="true">
      <div class="card" role="status">
        <h1>{view?.workshop_name ?? "ClaraTeach"}</h1>
        {view === null ? (
          <p>Looking for your seat…</p>
        ) : view.status === "unreachable" ? (
          <p>{view.reason ?? "Your seat does not answer at the moment. Your work in it is kept."}</p>
        ) : starting ? (
          <p>Seat {view.seat} is yours; it is starting.</p>
        ) : view.place !== undefined ? (
          <>
            <p class="place">
              <strong>{view.place}</strong>
              <span>your place in line</span>
            </p>
            <p>Seats are being made. You get yours as soon as one is ready; leave this page open.</p>
          </>
        ) : (
          <p>Your seat is being made ready.</p>
        )}
        {trouble !== null && <p class="problem">{trouble}</p>}
        {view && <TimeLeft endsAt={view.ends_at} />}
      </div>
      {view && (
        <div class="card">
          <p>
            Your code to come back from another device: <code class="secret">{code}</code> <CopyButton text={code} label="Copy" />
          </p>
          <p class="hint">Keep it to yourself: whoever has it has your seat.</p>
        </div>
      )}
    </main>
  );
}

/** It is over, and why. */
export function Ended({ code, view, joinCode, gone }: { code: string; view: SessionView; joinCode: string | undefined; gone: boolean }) {
  useEffect(() => {
    document.title = "Ended · ClaraTeach";
  }, []);
  const again = gone ? undefined : joinCode;
  return (
    <main class="start">
      <div class="card" role="alert">
        <h1>{view.workshop_name}</h1>
        <p class="ended-reason">{view.reason ?? "This session has ended."}</p>
        <div class="actions">
          <button
            class="primary"
            onClick={() => {
              forget(code);
              go(again === undefined ? "/" : `/join/${prettyCode(again)}`);
            }}
          >
            {again === undefined ? "To the start page" : "Join again"}
          </button>
        </div>
      </div>
    </main>
  );
}

/** The server knows no such session (any more). */
export function Unknown({ code }: { code: string }) {
  return (
    <main class="start">
      <div class="card" role="alert">
        <h1>This session is over</h1>
        <p>The server no longer knows it: its workshop was deleted.</p>
        <div class="actions">
          <button
            class="primary"
            onClick={() => {
              forget(code);
              go("/");
            }}
          >
            To the start page
          </button>
        </div>
      </div>
    </main>
  );
}

export function NoSession() {
  return (
    <main class="start">
      <div class="card">
        <h1>You are not in a workshop</h1>
        <p>
          <Link href="/">Join with the code of your workshop</Link>
        </p>
      </div>
    </main>
  );
}
