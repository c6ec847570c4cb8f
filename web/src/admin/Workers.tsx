import { useEffect, useState } from "preact/hooks";
import { addWorker, drainWorker, forgetWorker, listWorkers } from "../api/admin";
import { sentence } from "../api/error";
import type { WorkerView } from "../api/types";
import { confirm } from "../ui/dialog";

/** Workers: how they are; add, drain, forget. */
export function Workers() {
  const [workers, setWorkers] = useState<WorkerView[]>([]);
  const [address, setAddress] = useState("");
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const read = () => listWorkers().then(setWorkers, (error: unknown) => setProblem(sentence(error)));
  useEffect(() => {
    void read();
    const timer = setInterval(() => void read(), 3000);
    return () => clearInterval(timer);
  }, []);
  const act = async (what: () => Promise<unknown>) => {
    setProblem("");
    try {
      await what();
    } catch (error) {
      setProblem(sentence(error));
    }
    await read();
  };
  return (
    <>
      <h2>Workers</h2>
      {workers.length === 0 ? (
        <p class="hint">There are none: this server makes its seats itself.</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Workers">
          <table>
            <thead>
              <tr>
                <th scope="col">Worker</th>
                <th scope="col">State</th>
                <th scope="col">Runtime</th>
                <th scope="col">Seats</th>
                <th scope="col">Free memory</th>
                <th scope="col">Version</th>
                <th scope="col">Actions</th>
              </tr>
            </thead>
            <tbody>
              {workers.map((worker) => (
                <Row key={worker.id} worker={worker} act={act} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      <form
        class="inline"
        onSubmit={(event) => {
          event.preventDefault();
          void act(async () => {
            await addWorker(address.trim(), token.trim());
            setAddress("");
            setToken("");
          });
        }}
      >
        <label class="field">
          <span>Address of a further worker</span>
          <input value={address} placeholder="10.0.0.5:9090" required onInput={(event) => setAddress(event.currentTarget.value)} />
        </label>
        <label class="field">
          <span>Its AGENT_TOKEN</span>
          <input type="password" autocomplete="off" value={token} required onInput={(event) => setToken(event.currentTarget.value)} />
        </label>
        <button type="submit">Add worker</button>
      </form>
      <p class="problem" role="alert">
        {problem}
      </p>
    </>
  );
}

function Row({ worker, act }: { worker: WorkerView; act: (what: () => Promise<unknown>) => Promise<void> }) {
  const draining = worker.wish === "draining";
  const forget = async () => {
    const sure = await confirm({
      title: `Forget worker ${worker.id}?`,
      text: ["Its seats are given up, with what learners have on them. If it comes back, what it still has is removed."],
      confirm: "Forget",
      danger: true,
    });
    if (sure) await act(() => forgetWorker(worker.id));
  };
  return (
    <tr>
      <td>
        <code>{worker.id}</code>
        {worker.public_url !== null && <small> {worker.public_url}</small>}
      </td>
      <td>
        <span class={`status ${worker.takes_seats ? "good" : "bad"}`}>{draining ? `${worker.state}, draining` : worker.state}</span>
        {worker.problem !== null && <small> {worker.problem}</small>}
      </td>
      <td>{worker.kind ?? "–"}</td>
      <td>
        {worker.seats} of {worker.capacity}
      </td>
      <td>{worker.free_memory_mb === null ? "–" : `${worker.free_memory_mb} MB`}</td>
      <td>{worker.version ?? "–"}</td>
      <td>
        <button type="button" onClick={() => void act(() => drainWorker(worker.id, !draining))}>
          {draining ? "Use again" : "Drain"}
        </button>{" "}
        <button type="button" onClick={() => void forget()}>
          Forget
        </button>
      </td>
    </tr>
  );
}
