import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { sentence } from "./api/error";
import { useRoute, type Route } from "./router";
import { StartPage } from "./start/StartPage";
import { DialogHost } from "./ui/dialog";
import { Link } from "./ui/Link";
import { ToastHost } from "./ui/toast";

/** The page for the current path; all but the start page are loaded when they are first needed. */
export function App() {
  const route = useRoute();
  return (
    <>
      <Page route={route} />
      <DialogHost />
      <ToastHost />
    </>
  );
}

const LearnPage = lazy(async () => (await import("./learner/LearnPage")).LearnPage);
const InstructorPage = lazy(async () => (await import("./instructor/InstructorPage")).InstructorPage);
const WorkshopPage = lazy(async () => (await import("./instructor/WorkshopPage")).WorkshopPage);
const AdminPage = lazy(async () => (await import("./admin/AdminPage")).AdminPage);

function Page({ route }: { route: Route }) {
  switch (route.page) {
    case "start":
      return <StartPage key={route.code} code={route.code} />;
    case "learn":
      return <LearnPage />;
    case "instructor":
      return <InstructorPage />;
    case "workshop":
      return <WorkshopPage key={route.id} id={route.id} />;
    case "admin":
      return <AdminPage />;
    case "nowhere":
      return (
        <main class="start">
          <h1>Nothing here</h1>
          <p>
            This address leads nowhere. <Link href="/">Go to the start page</Link>
          </p>
        </main>
      );
  }
}

/** A component whose code is loaded when it is first shown. */
function lazy<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let loaded: ComponentType<P> | undefined;
  return function Lazy(props: P) {
    const [Inner, setInner] = useState<{ it: ComponentType<P> } | null>(loaded ? { it: loaded } : null);
    const [problem, setProblem] = useState<string | null>(null);
    useEffect(() => {
      if (loaded) return;
      load().then(
        (it) => {
          loaded = it;
          setInner({ it });
        },
        (error: unknown) => setProblem(sentence(error)),
      );
    }, []);
    if (Inner) return <Inner.it {...props} />;
    if (problem !== null) {
      return (
        <main class="start">
          <h1>This page could not be loaded</h1>
          <p>The server may be restarting, or was updated.</p>
          <button class="primary" onClick={() => location.reload()}>
            Load again
          </button>
        </main>
      );
    }
    return <main class="start" aria-busy="true" />;
  };
}
