import { useEffect, useState } from "preact/hooks";
import { ApiError, sentence } from "../api/error";
import type { WorkshopView } from "../api/types";
import { listWorkshops } from "../api/workshops";
import { go } from "../router";
import { Link } from "../ui/Link";
import { span, useServerNow } from "../ui/time";
import { CreateForm } from "./CreateForm";
import { Shell } from "./Shell";
import { statusLine, tone } from "./words";

/** `/instructor`: the workshops of the one who is logged in. */
export function InstructorPage() {
  useEffect(() => {
    document.title = "Workshops · ClaraTeach";
  }, []);
  return <Shell here="instructor">{() => <Workshops />}</Shell>;
}

function Workshops() {
  const [workshops, setWorkshops] = useState<WorkshopView[] | null>(null);
  const [problem, setProblem] = useState("");
  const now = useServerNow(10_000);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const abort = new AbortController();
    const read = async () => {
      try {
        setWorkshops(await listWorkshops(abort.signal));
        setProblem("");
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error instanceof ApiError && error.status === 401) return location.reload();
        setProblem(sentence(error));
      }
      if (!abort.signal.aborted) timer = setTimeout(() => void read(), 3000);
    };
    void read();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, []);

  return (
    <>
      <CreateForm created={(workshop) => go(`/instructor/workshops/${encodeURIComponent(workshop.id)}`)} />
      <section aria-labelledby="list-title">
        <h2 id="list-title">Your workshops</h2>
        {problem !== "" && (
          <p class="problem" role="alert">
            {problem}
          </p>
        )}
        {workshops?.length === 0 && <p class="hint">None yet. Create the first one above.</p>}
        {workshops === null && problem === "" && <p class="hint">Reading…</p>}
        <ul class="workshop-list">
          {workshops?.map((workshop) => (
            <li key={workshop.id}>
              <Link href={`/instructor/workshops/${encodeURIComponent(workshop.id)}`} class="workshop-card">
                <strong class="name">{workshop.name}</strong>
                <code class="code">{workshop.join_code}</code>
                <span class={`status ${tone(workshop.status)}`}>{statusLine(workshop)}</span>
                <span class="hint">
                  {workshop.runtime}
                  {workshop.ends_at !== null && workshop.status === "running" && ` · ${span(Date.parse(workshop.ends_at) - now)} left`}
                  {workshop.waiting > 0 && ` · ${workshop.waiting} in line`}
                </span>
              </Link>
            </li>
          ))}
        </ul>
      </section>
    </>
  );
}
