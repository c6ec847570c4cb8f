import { useEffect, useState } from "preact/hooks";

/** The pages of this site. */
export type Route =
  | { page: "start"; code: string }
  | { page: "learn" }
  | { page: "instructor" }
  | { page: "workshop"; id: string }
  | { page: "admin" }
  | { page: "nowhere" };

/** What a path asks for. */
export function parseRoute(path: string): Route {
  const parts = path.split("/").filter((part) => part !== "").map(decode);
  const [first, second, third] = parts;
  if (parts.length === 0) return { page: "start", code: "" };
  if (first === "join" && parts.length <= 2) return { page: "start", code: second ?? "" };
  if (first === "learn" && parts.length === 1) return { page: "learn" };
  if (first === "instructor") {
    if (parts.length === 1) return { page: "instructor" };
    if (second === "workshops" && third !== undefined && parts.length === 3) return { page: "workshop", id: third };
  }
  if (first === "admin" && parts.length === 1) return { page: "admin" };
  return { page: "nowhere" };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const MOVED = "clarateach:moved";

/** Goes to another page of this site without loading it anew. */
export function go(path: string, how: "push" | "replace" = "push"): void {
  if (how === "push") history.pushState(null, "", path);
  else history.replaceState(null, "", path);
  dispatchEvent(new Event(MOVED));
}

/** The current route; follows `go` and the browser's back and forward. */
export function useRoute(): Route {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const moved = () => setPath(location.pathname);
    addEventListener("popstate", moved);
    addEventListener(MOVED, moved);
    return () => {
      removeEventListener("popstate", moved);
      removeEventListener(MOVED, moved);
    };
  }, []);
  return parseRoute(path);
}
