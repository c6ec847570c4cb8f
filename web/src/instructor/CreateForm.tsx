import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, sentence } from "../api/error";
import type { RuntimeView, WorkshopView } from "../api/types";
import { createWorkshop, listRuntimes } from "../api/workshops";
import { blank, fieldOf, readForm, type Field, type Problems, type WorkshopForm } from "./workshopform";

/** Creates a workshop. */
export function CreateForm({ created }: { created(workshop: WorkshopView): void }) {
  const [form, setForm] = useState<WorkshopForm>(blank);
  const [problems, setProblems] = useState<Problems>({});
  const [refused, setRefused] = useState("");
  const [busy, setBusy] = useState(false);
  const [runtimes, setRuntimes] = useState<RuntimeView[]>([]);
  const element = useRef<HTMLFormElement>(null);
  const more = useRef<HTMLDetailsElement>(null);
  useEffect(() => void listRuntimes().then(setRuntimes, () => undefined), []);

  const set = (part: Partial<WorkshopForm>) => setForm((form) => ({ ...form, ...part }));
  const complain = (problems: Problems) => {
    setProblems(problems);
    if (Object.keys(problems).some((field) => field !== "name" && field !== "seats") && more.current) more.current.open = true;
    requestAnimationFrame(() => element.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    setRefused("");
    const read = readForm(form);
    if (!read.ok) return complain(read.problems);
    setProblems({});
    setBusy(true);
    try {
      created(await createWorkshop(read.body));
      setForm(blank);
    } catch (error) {
      const field = error instanceof ApiError && error.status === 422 ? fieldOf(error.code, error.message) : null;
      if (field === null) setRefused(sentence(error));
      else complain({ [field]: sentence(error) });
    } finally {
      setBusy(false);
    }
  };

  const text = (field: Exclude<Field, "env" | "runtime">, label: string, hint: string, extra: { type?: string; placeholder?: string; unit?: string } = {}) => (
    <Labelled label={label} hint={hint} problem={problems[field]} id={`new-${field}`}>
      <input
        id={`new-${field}`}
        value={form[field]}
        placeholder={extra.placeholder}
        inputMode={extra.type === "number" ? "numeric" : undefined}
        autocomplete="off"
        aria-invalid={problems[field] !== undefined}
        aria-describedby={`new-${field}-note`}
        onInput={(event) => {
          set({ [field]: event.currentTarget.value });
          setProblems(({ [field]: _, ...rest }) => rest);
        }}
      />
    </Labelled>
  );
  const chosen = runtimes.find((runtime) => (form.runtime === "" ? runtime.default : runtime.runtime === form.runtime));

  return (
    <form class="card create" ref={element} onSubmit={submit} noValidate aria-labelledby="create-title">
      <h2 id="create-title">New workshop</h2>
      <div class="columns">
        {text("name", "Name", "")}
        {text("seats", "Seats", "", { type: "number" })}
      </div>
      <details ref={more}>
        <summary>More: environment, image, duration, size</summary>
        <div class="columns">
          <Labelled label="Runtime" hint={chosen ? roomOf(chosen) : "What makes the seats"} problem={problems.runtime} id="new-runtime">
            <select id="new-runtime" value={form.runtime} onChange={(event) => set({ runtime: event.currentTarget.value })} aria-invalid={problems.runtime !== undefined} aria-describedby="new-runtime-note">
              <option value="">The best that is there{runtimes.some((r) => r.default) ? ` (${runtimes.find((r) => r.default)?.runtime})` : ""}</option>
              {runtimes.map((runtime) => (
                <option key={runtime.runtime} value={runtime.runtime} disabled={!runtime.available}>
                  {runtime.runtime}
                  {runtime.available ? "" : " (not available)"}
                </option>
              ))}
            </select>
          </Labelled>
          {text("image", "Container image", "Any Linux image", { placeholder: "clarateach-workspace" })}
          {text("duration", "Ends after (minutes)", "Empty: it runs until you stop it", { type: "number", placeholder: "no planned end" })}
          {text("memory", "Memory per seat (MiB)", "", { type: "number", placeholder: "512" })}
          {text("vcpus", "Processors per seat", "", { type: "number", placeholder: "2" })}
          {text("disk", "Disk per seat (MiB)", "", { type: "number", placeholder: "10240" })}
        </div>
        {chosen?.warnings.map((warning) => (
          <p key={warning} class="warning">
            {warning}
          </p>
        ))}
        <fieldset>
          <legend>Environment variables for every seat</legend>
          {form.env.map((pair, index) => {
            const put = (part: Partial<typeof pair>) => set({ env: form.env.map((other, n) => (n === index ? { ...other, ...part } : other)) });
            return (
              <div class="pair" key={index}>
                <input aria-label={`Name of variable ${index + 1}`} placeholder="NAME" value={pair.name} spellcheck={false} autocomplete="off" onInput={(event) => put({ name: event.currentTarget.value })} aria-invalid={problems.env !== undefined} />
                <input aria-label={`Value of variable ${index + 1}`} placeholder="value" value={pair.value} spellcheck={false} autocomplete="off" onInput={(event) => put({ value: event.currentTarget.value })} />
                <button type="button" class="icon" aria-label={`Remove variable ${index + 1}`} onClick={() => set({ env: form.env.filter((_, n) => n !== index) })}>
                  ×
                </button>
              </div>
            );
          })}
          {problems.env !== undefined && <p class="problem" role="alert">{problems.env}</p>}
          <button type="button" class="small" onClick={() => set({ env: [...form.env, { name: "", value: "" }] })}>
            Add a variable
          </button>
        </fieldset>
        <label class="check">
          <input type="checkbox" checked={form.autostart} onChange={(event) => set({ autostart: event.currentTarget.checked })} />
          <span>Make the seats now, so that they are ready when learners come</span>
        </label>
      </details>
      <p class="problem" role="alert">
        {refused}
      </p>
      <button type="submit" class="primary" disabled={busy}>
        {busy ? "Creating…" : "Create workshop"}
      </button>
    </form>
  );
}

function roomOf(runtime: RuntimeView): string {
  return `${runtime.used} of ${runtime.capacity} environments in use`;
}

function Labelled(props: { label: string; hint: string; problem: string | undefined; id: string; children: ComponentChildren }) {
  return (
    <div class="field">
      <label for={props.id}>{props.label}</label>
      {props.children}
      <span id={`${props.id}-note`} class={props.problem === undefined ? "hint" : "problem"} role={props.problem === undefined ? undefined : "alert"}>
        {props.problem ?? props.hint}
      </span>
    </div>
  );
}
