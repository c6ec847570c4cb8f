/** What the tests run against, from the environment. */

import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A running server. */
export const url = (process.env.CLARATEACH_URL ?? "http://127.0.0.1:8080").replace(/\/+$/, "");
/** Token to log in with, where the server wants one. */
export const token = process.env.CLARATEACH_TOKEN ?? "";
/** Runtime of the workshops: `docker`, `process`; empty for the server's own choice. */
export const runtime = process.env.CLARATEACH_RUNTIME ?? "";
/** Image of the workshops, where the runtime takes one; empty for the default. */
export const image = process.env.CLARATEACH_IMAGE ?? "";
/** The browser. */
export const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** Where screenshots go. */
export const results =
  process.env.CLARATEACH_RESULTS ?? fileURLToPath(new URL("../../../test-results/browser", import.meta.url));
mkdirSync(results, { recursive: true });

/** A screenshot's path; its name begins with what the run is called, else with the runtime. */
export const shot = (name) => `${results}/${process.env.CLARATEACH_SHOTS ?? (runtime || "default")}-${name}.png`;
