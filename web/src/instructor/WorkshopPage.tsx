import { useEffect, useState } from "preact/hooks";
import type { WorkshopView } from "../api/types";
import { deleteWorkshop, extendWorkshop, lockWorkshop, startWorkshop, stopWorkshop } from "../api/workshops";
import { go } from "../router";
import { CopyButton } from "../ui/CopyButton";
import { ask, confirm } from "../ui/dialog";
import { Link } from "../ui/Link";
import { span, useServerNow } from "../ui/time";
import { attempt } from "../ui/toast";
import { LookIn } from "./LookIn";
import { Seats } from "./Seats";
import { Shell } from "./Shell";
import { useWorkshop, type Watching } from "./useWorkshop";
import { isMade, statusLine, tone } from "./words";

/** `/instructor/workshops/{id}`: one workshop, live. */
export function WorkshopPage({ id }: { id: string }) {
  const seat = useSeatInHash();
  if (seat !== null) return <Shell here="workshop">{() => <LookIn id={id} seat={seat} />}</Shell>;
  return <Shell here="workshop">{() => <Watched id={id} />}</Shell>;
}

/** The seat that is looked into stands behind `#seat-`, so that going back leaves it. */
function useSeatInHash(): number | null {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    addEventListener("popstate", changed);
    return () => {
      removeEventListener("hashchange", changed);
      removeEventListener("popstate", changed);
    };
  }, []);
  const match = /^#seat-([1-9]\d*)$/.exec(hash);
  return match ? Number(match[1]) : null;
}

function Watched({ id }: { id: string }) {
  const watching = useWorkshop(id);
  const { workshop } = watching;
  useEffect(() => {
    document.title = workshop ? `${workshop.name} · ClaraTeach` : "Workshop · ClaraTeach";
  }, [workshop?.name]);

  if (watching.gone) {
    return (
      <div class="card" role="status">
        <h1>{workshop ? `${workshop.name} is gone` : "No such workshop"}</h1>
        <p>{workshop ? "Everything that was made for it has been removed." : "It was deleted, or the address is wrong, or it belongs to somebody else."}</p>
        <p>
          <Link href="/instructor">All workshops</Link>
        </p>
      </div>
    );
  }
  if (!workshop) return <p class="hint">{watching.problem ?? "Reading…"}</p>;
  return (
    <>
      {watching.problem !== null && (
        <p class="warning" role="alert">
          What you see may be out of date: {watching.problem}
        </p>
      )}
      <Door workshop={workshop} />
      <State workshop={workshop} />
      <Actions workshop={workshop} watching={watching} />
      <Seats workshop={workshop} seats={watching.seats} refresh={watching.refresh} />
      <Facts workshop={workshop} />
    </>
  );
}

/** The join code, to be read from the back of the room. */
function Door({ workshop }: { workshop: WorkshopView }) {
  const open = workshop.status === "running" || workshop.status === "provisioning";
  return (
    <section class="door" aria-label="How to join">
      <h1>{workshop.name}</h1>
      <p class="huge-code" data-testid="join-code">
        {workshop.join_code}
      </p>
      <p class="join-url">
        <a href={workshop.join_url}>{workshop.join_url}</a> <CopyButton text={workshop.join_url} label="Copy link" />{" "}
        <CopyButton text={workshop.join_code} label="Copy code" />
      </p>
      {!open && <p class="hint">Nobody can join now.</p>}
      {open && workshop.locked && <p class="warning">Closed for newcomers. Those who have a seat can come back.</p>}
    </section>
  );
}

function State({ workshop }: { workshop: WorkshopView }) {
  const now = useServerNow(1000);
  const counts = workshop.seat_counts;
  const made = isMade(workshop);
  const parts: [string, number, string][] = [
    ["working", counts.occupied, "good"],
    ["free", counts.ready, "free"],
    ["starting", made ? counts.starting + counts.pending : 0, "busy"],
    ["not answering", counts.unreachable, "bad"],
    ["failed", counts.failed, "bad"],
  ];
  return (
    <section class="state" aria-label="State">
      <p class={`status big ${tone(workshop.status)}`} role="status" data-testid="workshop-status" data-status={workshop.status}>
        {statusLine(workshop)}
      </p>
      {workshop.progress !== null && <p class="progress">{workshop.progress}</p>}
      {workshop.reason !== null && <p class={workshop.status === "error" ? "problem" : "warning"}>{workshop.reason}</p>}
      {made && (
        <div class="bar" aria-hidden="true">
          {parts.map(([name, count, tone]) => count > 0 && <span key={name} class={tone} style={{ flexGrow: count }} title={`${count} ${name}`} />)}
        </div>
      )}
      <p class="hint">
        {[
          ...parts.filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`),
          ...(workshop.waiting > 0 ? [`${workshop.waiting} in line`] : []),
          workshop.ends_at === null ? "no planned end" : `ends ${new Date(workshop.ends_at).toLocaleString()} (${span(Date.parse(workshop.ends_at) - now)} left)`,
        ].join(" · ")}
      </p>
      {workshop.warnings.map((warning) => (
        <p key={warning} class="warning">
          {warning}
        </p>
      ))}
    </section>
  );
}

function Actions({ workshop, watching }: { workshop: WorkshopView; watching: Watching }) {
  const { id, status, name } = workshop;
  const run = (what: string, action: () => Promise<void>) => void attempt(what, action).then(watching.refresh);
  const alive = status === "running" || status === "provisioning";
  const extend = async () => {
    const minutes = await ask({
      title: workshop.ends_at === null ? "Plan the end" : "Let it go on longer",
      confirm: workshop.ends_at === null ? "Set the end" : "Extend",
      input: {
        label: workshop.ends_at === null ? "Ends in how many minutes?" : "How many minutes more?",
        value: "30",
        check: (text) => (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= 43_200 ? null : "A whole number from 1 to 43200."),
      },
    });
    if (minutes !== null) run("Not extended", () => extendWorkshop(id, Number(minutes)));
  };
  const stop = async () => {
    const sure = await confirm({
      title: `Stop ${name}?`,
      text: ["All seats are removed with the work in them. The workshop stays in the list and can be started again, with fresh seats."],
      confirm: "Stop and remove the seats",
      danger: true,
    });
    if (sure) run("Not stopped", () => stopWorkshop(id));
  };
  const remove = async () => {
    const taken = workshop.seat_counts.occupied;
    const sure = await confirm({
      title: `Delete ${name}?`,
      text: [`Everything is removed: ${workshop.seats} seats with the work in them${taken > 0 ? `, ${taken} of them in use now` : ""}. This can't be undone.`],
      confirm: "Delete",
      danger: true,
      ...(taken > 0 ? { type: workshop.join_code } : {}),
    });
    if (sure) run("Not deleted", () => deleteWorkshop(id));
  };
  return (
    <div class="actions" role="toolbar" aria-label="What to do with the workshop">
      {(status === "created" || status === "stopped" || status === "error") && (
        <button class="primary" onClick={() => run("Not started", () => startWorkshop(id))}>
          {status === "error" ? "Try again" : "Start"}
        </button>
      )}
      {alive && (
        <button onClick={() => run("Not changed", () => lockWorkshop(id, !workshop.locked))}>
          {workshop.locked ? "Let newcomers in" : "Close for newcomers"}
        </button>
      )}
      {status !== "deleting" && <button onClick={() => void extend()}>{workshop.ends_at === null ? "Plan the end…" : "Extend…"}</button>}
      {(alive || status === "error") && <button onClick={() => void stop()}>Stop…</button>}
      {status !== "deleting" && (
        <button class="danger" onClick={() => void remove()}>
          Delete…
        </button>
      )}
      <span class="grow" />
      <button class="quiet" onClick={() => go("/instructor")}>
        All workshops
      </button>
    </div>
  );
}

function Facts({ workshop }: { workshop: WorkshopView }) {
  return (
    <details class="facts">
      <summary>What each seat is</summary>
      <dl>
        <dt>Runtime</dt>
        <dd>{workshop.runtime}</dd>
        <dt>Image</dt>
        <dd>{workshop.image}</dd>
        <dt>Memory</dt>
        <dd>{workshop.memory_mb} MiB</dd>
        <dt>Processors</dt>
        <dd>{workshop.vcpus}</dd>
        <dt>Disk</dt>
        <dd>{workshop.disk_mb} MiB</dd>
        <dt>Environment variables</dt>
        <dd>{workshop.env_names.length === 0 ? "none" : workshop.env_names.join(", ")} (values are not shown)</dd>
        <dt>Made</dt>
        <dd>{new Date(workshop.created_at).toLocaleString()}</dd>
        <dt>Id</dt>
        <dd>
          <code>{workshop.id}</code>
        </dd>
      </dl>
    </details>
  );
}
