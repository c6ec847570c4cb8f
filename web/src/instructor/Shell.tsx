import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { sentence } from "../api/error";
import { login, logout, whoAmI } from "../api/login";
import type { WhoAmI } from "../api/types";
import { Link } from "../ui/Link";
import { attempt } from "../ui/toast";

type Entry = { state: "asking" } | { state: "out" } | { state: "in"; me: WhoAmI } | { state: "failed"; message: string };

/** The frame of instructor and admin pages: a login where the server wants one, then header and content. */
export function Shell({ here, children }: { here: "instructor" | "admin" | "workshop"; children(me: WhoAmI): ComponentChildren }) {
  const [entry, setEntry] = useState<Entry>({ state: "asking" });
  const look = async () => {
    try {
      const me = await whoAmI();
      setEntry(me === null ? { state: "out" } : { state: "in", me });
    } catch (error) {
      setEntry({ state: "failed", message: sentence(error) });
    }
  };
  useEffect(() => void look(), []);
  useEffect(() => {
    if (entry.state !== "failed") return;
    const timer = setTimeout(() => void look(), 2000);
    return () => clearTimeout(timer);
  }, [entry]);

  if (entry.state === "asking") return <main class="start" aria-busy="true" />;
  if (entry.state === "failed") {
    return (
      <main class="start">
        <div class="card" role="alert">
          <h1>The server does not answer</h1>
          <p>{entry.message}</p>
        </div>
      </main>
    );
  }
  if (entry.state === "out") return <Login done={look} />;
  const { me } = entry;
  return (
    <div class="shell">
      <header class="site-bar">
        <Link href="/" class="brand-small">
          ClaraTeach
        </Link>
        <nav aria-label="Pages">
          <Link href="/instructor" {...(here === "instructor" ? { "aria-current": "page" as const } : {})}>
            Workshops
          </Link>
          {me.admin && (
            <Link href="/admin" {...(here === "admin" ? { "aria-current": "page" as const } : {})}>
              Admin
            </Link>
          )}
        </nav>
        <span class="grow" />
        <span class="who">{me.name}</span>
        {me.login_required && (
          <button class="small" onClick={() => void attempt("Not logged out", logout).then(look)}>
            Log out
          </button>
        )}
      </header>
      <main class="content">{children(me)}</main>
    </div>
  );
}

function Login({ done }: { done(): Promise<void> }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    document.title = "Log in · ClaraTeach";
  }, []);
  return (
    <main class="start">
      <h1 class="brand">ClaraTeach</h1>
      <form
        class="card"
        onSubmit={async (event) => {
          event.preventDefault();
          setBusy(true);
          setProblem("");
          try {
            await login(token.trim());
            await done();
          } catch (error) {
            setProblem(sentence(error));
          } finally {
            setBusy(false);
          }
        }}
      >
        <h2>Log in to teach</h2>
        <label class="field">
          <span>Your token</span>
          <input
            type="password"
            autocomplete="current-password"
            value={token}
            required
            onInput={(event) => setToken(event.currentTarget.value)}
            aria-invalid={problem !== ""}
            aria-describedby="login-problem"
          />
        </label>
        <p class="problem" id="login-problem" role="alert">
          {problem}
        </p>
        <button class="primary big" type="submit" disabled={busy}>
          Log in
        </button>
        <p class="hint">The admin token is what the server was started with; instructors get theirs from the admin.</p>
      </form>
      <p class="hint">
        Learning? <Link href="/">Join with a code</Link>
      </p>
    </main>
  );
}
