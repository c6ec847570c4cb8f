import { useEffect, useState } from "preact/hooks";
import { createUser, getOverview, listUsers, listVms } from "../api/admin";
import { sentence } from "../api/error";
import type { AdminOverview, AdminVm, UserView } from "../api/types";
import { Shell } from "../instructor/Shell";
import { tone } from "../instructor/words";
import { Workers } from "./Workers";
import { CopyButton } from "../ui/CopyButton";
import { span } from "../ui/time";

/** `/admin`: the whole server. */
export function AdminPage() {
  useEffect(() => {
    document.title = "Admin · ClaraTeach";
  }, []);
  return (
    <Shell here="admin">
      {(me) => (me.admin ? <Dashboard /> : <p class="problem">This page is for the admin; you are logged in as {me.name}.</p>)}
    </Shell>
  );
}

function Dashboard() {
  const [overview, setOverview] = useState<AdminOverview | null>(null);
  const [vms, setVms] = useState<{ vms: AdminVm[]; unknown: string[] } | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let stopped = false;
    const read = async () => {
      try {
        const [overview, vms] = await Promise.all([getOverview(), listVms()]);
        if (stopped) return;
        setOverview(overview);
        setVms(vms);
        setProblem("");
      } catch (error) {
        if (!stopped) setProblem(sentence(error));
      }
      if (!stopped) timer = setTimeout(() => void read(), 3000);
    };
    void read();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, []);
  return (
    <>
      <h1>Server</h1>
      {problem !== "" && (
        <p class="warning" role="alert">
          What you see may be out of date: {problem}
        </p>
      )}
      {overview && <Overview overview={overview} />}
      {vms && <Environments vms={vms.vms} unknown={vms.unknown} />}
      <Workers />
      <Users />
    </>
  );
}

function Overview({ overview }: { overview: AdminOverview }) {
  const figures: [string, string | number][] = [
    ["Workshops", `${overview.running_workshops} of ${overview.workshops} running`],
    ["Seats", `${overview.ready_seats} of ${overview.seats} answer`],
    ["Learners", overview.learners],
    ["In line", overview.waiting],
    ["Environments", overview.vms],
    ["Workers", `${overview.usable_workers} of ${overview.workers} take seats`],
    ["Up for", span(overview.uptime_seconds * 1000)],
    ["Version", overview.version],
  ];
  return (
    <>
      <dl class="figures">
        {figures.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <h2>Runtimes</h2>
      <ul class="runtimes">
        {overview.runtimes.map((runtime) => (
          <li key={runtime.runtime} class="card">
            <strong>{runtime.runtime}</strong>{" "}
            <span class={`status ${runtime.available ? "good" : "bad"}`}>{runtime.available ? "available" : "not available"}</span>{" "}
            {runtime.default && <small>default</small>}
            <p class="hint">
              {runtime.used} of {runtime.capacity} environments
            </p>
            {runtime.warnings.map((warning) => (
              <p key={warning} class="warning">
                {warning}
              </p>
            ))}
          </li>
        ))}
      </ul>
    </>
  );
}

function Environments({ vms, unknown }: { vms: AdminVm[]; unknown: string[] }) {
  return (
    <>
      <h2>Environments</h2>
      {unknown.map((text) => (
        <p key={text} class="warning">
          Not all are listed: {text}
        </p>
      ))}
      {vms.length === 0 ? (
        <p class="hint">There are none.</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Environments">
          <table>
            <thead>
              <tr>
                <th scope="col">Workshop</th>
                <th scope="col">Seat</th>
                <th scope="col">Make</th>
                <th scope="col">Runtime</th>
                <th scope="col">Worker</th>
                <th scope="col">Status</th>
                <th scope="col">Address</th>
                <th scope="col">Handle</th>
              </tr>
            </thead>
            <tbody>
              {vms.map((vm) => (
                <tr key={`${vm.workshop_id}/${vm.seat_id}/${vm.generation}`}>
                  <td>
                    <code>{vm.workshop_id}</code>
                  </td>
                  <td>{vm.seat_id}</td>
                  <td>{vm.generation}</td>
                  <td>{vm.runtime}</td>
                  <td>{vm.worker ?? "–"}</td>
                  <td>
                    <span class={`status ${vm.status === "ready" ? "good" : tone(vm.status)}`}>{vm.status}</span>
                    {vm.reason !== null && <small> {vm.reason}</small>}
                  </td>
                  <td>{vm.address ?? "–"}</td>
                  <td>
                    <code>{vm.handle ?? "–"}</code>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

function Users() {
  const [users, setUsers] = useState<UserView[]>([]);
  const [name, setName] = useState("");
  const [made, setMade] = useState<{ name: string; token: string } | null>(null);
  const [problem, setProblem] = useState("");
  const read = () => void listUsers().then(setUsers, (error: unknown) => setProblem(sentence(error)));
  useEffect(read, []);
  return (
    <>
      <h2>Instructors</h2>
      <ul>
        {users.map((user) => (
          <li key={user.id}>
            {user.name} <small class="hint">since {new Date(user.created_at).toLocaleDateString()}</small>
          </li>
        ))}
      </ul>
      <form
        class="inline"
        onSubmit={async (event) => {
          event.preventDefault();
          setProblem("");
          try {
            const { user, token } = await createUser(name.trim());
            setMade({ name: user.name, token });
            setName("");
            read();
          } catch (error) {
            setProblem(sentence(error));
          }
        }}
      >
        <label class="field">
          <span>Name of a new instructor</span>
          <input value={name} maxLength={100} required onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <button type="submit">Add</button>
      </form>
      <p class="problem" role="alert">
        {problem}
      </p>
      {made && (
        <p class="card" role="status">
          {made.name} logs in with this token, shown only now: <code class="secret">{made.token}</code> <CopyButton text={made.token} label="Copy" />
        </p>
      )}
    </>
  );
}
