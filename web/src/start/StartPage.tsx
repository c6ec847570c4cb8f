import { useEffect, useRef, useState } from "preact/hooks";
import { sentence } from "../api/error";
import { currentSession, prettyCode, remembered } from "../learner/memory";
import { go } from "../router";
import { Link } from "../ui/Link";
import { comeBack, joinWorkshop, type JoinProblem } from "./joinflow";

/** `/` and `/join/{code}`: the door. */
export function StartPage({ code: given }: { code: string }) {
  const [code, setCode] = useState(prettyCode(given));
  const [name, setName] = useState(() => (given ? (remembered(given).name ?? "") : ""));
  const [session, setSession] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<JoinProblem | null>(null);
  const codeField = useRef<HTMLInputElement>(null);
  const nameField = useRef<HTMLInputElement>(null);

  useEffect(() => {
    document.title = "Join · ClaraTeach";
    (given ? nameField : codeField).current?.focus();
  }, [given]);

  const run = async (event: Event, action: () => Promise<JoinProblem | null>) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const wrong = await action();
      if (wrong === null) return go("/learn");
      setProblem(wrong);
      if (wrong.field === "code") codeField.current?.focus();
    } catch (error) {
      setProblem({ field: "form", message: sentence(error) });
    } finally {
      setBusy(false);
    }
  };

  return (
    <main class="start">
      <h1 class="brand">ClaraTeach</h1>
      <form class="card" onSubmit={(event) => run(event, () => joinWorkshop(code, name))}>
        <label class="field" for="join-code">
          <span>Join code</span>
        </label>
        <input
          ref={codeField}
          id="join-code"
          class="code-input"
          value={code}
          onInput={(event) => {
            setCode(prettyTyping(event.currentTarget.value));
            setProblem(null);
          }}
          placeholder="K7QM-4XTP"
          autocomplete="off"
          autocapitalize="characters"
          spellcheck={false}
          inputMode="text"
          maxLength={24}
          aria-invalid={problem?.field === "code"}
          aria-describedby="code-problem"
        />
        <p class="problem" id="code-problem" role="alert">
          {problem?.field === "code" ? problem.message : ""}
        </p>
        <label class="field">
          <span>
            Your name <small>(your instructor sees it; optional)</small>
          </span>
          <input ref={nameField} value={name} maxLength={60} autocomplete="name" onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <p class="problem" role="alert">
          {problem?.field === "form" ? problem.message : ""}
        </p>
        <button type="submit" class="primary big" disabled={busy}>
          {busy ? "Joining…" : "Join the workshop"}
        </button>
        {currentSession() !== null && (
          <p class="hint">
            <Link href="/learn">Back to the seat you had in this browser</Link>
          </p>
        )}
      </form>

      <details class="card">
        <summary>Come back from another device</summary>
        <form onSubmit={(event) => run(event, () => comeBack(session))}>
          <label class="field">
            <span>Your session code</span>
            <input
              value={session}
              placeholder="XXXX-XXXX-XXXX-XXXX-XXXX"
              autocomplete="off"
              autocapitalize="characters"
              spellcheck={false}
              onInput={(event) => setSession(event.currentTarget.value)}
              aria-invalid={problem?.field === "session"}
            />
          </label>
          <p class="problem" role="alert">
            {problem?.field === "session" ? problem.message : ""}
          </p>
          <button type="submit" disabled={busy}>
            Come back
          </button>
        </form>
      </details>
      <p class="hint">
        Teaching? <Link href="/instructor">Go to your workshops</Link>
      </p>
    </main>
  );
}

/** Upper case as it is typed; the hyphen comes by itself once the code is complete. */
function prettyTyping(value: string): string {
  const upper = value.toUpperCase();
  return /^[A-Z0-9]{8}$/.test(upper.trim()) ? prettyCode(upper) : upper;
}
