/**
 * A learner's own page, shown as a preview, attacks the workshop's pages from the learner's and from the instructor's
 * browser. It must get nowhere: not to the API, not to a token, not to what the pages keep.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { launch, person } from "./lib/browser.mjs";
import { connected, createWorkshop, deleteWorkshop, joinWorkshop, openPreview, somePort, terminalShows, typeLine, upload } from "./lib/pages.mjs";
import { shot, url } from "./lib/settings.mjs";
import { stepsOf } from "./lib/steps.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** Opens the preview from the page `page` is on, lets it attack and returns its report and what its server was sent. */
async function attack(page, port, about, t) {
  const tab = await openPreview(page, port);
  await tab.goto(`${tab.url()}#${new URLSearchParams(about)}`);
  // Only the fragment has changed: load the page anew so that the script sees it.
  await tab.reload();
  await tab.waitForFunction(() => document.title === "done", undefined, { timeout: 90_000 });
  const report = JSON.parse(await tab.locator("#report").innerText());
  const origin = await tab.evaluate(() => self.origin);
  await tab.screenshot({ path: shot(`hostile-${about.who}`), fullPage: true });
  await tab.close();
  t.diagnostic(JSON.stringify(report));
  const seen = await (await page.context().request.get(`${about.endpoint}/raw/seen.json`)).json();
  return { report, seen, origin };
}

/** What each attempt must have yielded. */
function assertHarmless({ report, seen, origin }) {
  const sandboxed = origin === "null";
  const refused = /^refused: /;
  for (const name of [
    "fetch workshops",
    "fetch files of the seat",
    "fetch with its own token header",
    "xhr workshops",
    "script workshops",
    "event stream",
    "terminal of the seat",
    "service worker of the main origin",
    "service worker above its own path",
    "post by fetch as json",
    "delete by fetch",
  ]) {
    assert.match(report[name], refused, name);
  }
  // A request that needs no permission leaves the browser, and its answer can't be read.
  for (const name of ["fetch workshops without cors", "post by fetch without cors"]) assert.match(report[name], /^(opaque 0|refused: )/, name);
  for (const path of ["/api/workshops", "/instructor", "/learn"]) assert.match(report[`frame ${path}`], /^(closed to us|refused: |nothing came)/, path);
  assert.equal(report.opener, "there is none");
  if (typeof report["opened window"] === "object") {
    const { answers, ...rest } = report["opened window"];
    for (const [what, yielded] of Object.entries(rest)) assert.match(yielded, refused, `${what} of an opened window`);
    assert.deepEqual(answers, [], "the page answers no messages");
  } else {
    assert.equal(report["opened window"], "not opened");
  }
  if (sandboxed) {
    for (const name of ["own cookies", "own storage", "cookie for the parent domain"]) assert.match(report[name], refused, name);
  } else {
    assert.equal(report["own cookies"], "", "neither a token nor a cookie that the hostile server tried to set");
    assert.equal(report["own storage"], "{}");
    assert.equal(report["cookie for the parent domain"], "");
  }
  assert.ok(!("READ" in report) && !/READ|REGISTERED|OPENED|LOADED/.test(JSON.stringify(report)), "nothing was readable");
  const headers = JSON.parse(report["headers that the browser sees"]);
  if (!sandboxed) assert.equal(headers["access-control-allow-origin"], undefined);
  for (const name of ["access-control-allow-credentials", "service-worker-allowed", "strict-transport-security", "set-cookie"]) {
    assert.equal(headers[name], undefined, name);
  }
  // What the hostile server was sent: no token, no cookie of ours, no capability, no secret of the seat.
  const sent = JSON.stringify(seen);
  assert.ok(seen.length > 0);
  assert.doesNotMatch(sent, /eyJ[\w-]{10,}\.|bearer|authorization|clarateach|capability|x-clarateach/i);
}

test("a hostile preview gets nowhere", { timeout: 300_000 }, async (t) => {
  const teacher = await person(browser);
  const learner = await person(browser);
  const workshop = await createWorkshop(teacher.page, { name: "Hostile", seats: 1 });
  const api = teacher.context.request;
  const port = somePort();
  const step = stepsOf(t, { teacher, learner });
  try {
    await joinWorkshop(learner.page, { code: workshop.code, name: "Mallory" });
    for (const name of ["server.py", "page.html", "attack.js", "worker.js"]) {
      await upload(learner.page, name, await readFile(new URL(`lib/hostile/${name}`, import.meta.url)));
    }
    await typeLine(learner.page, `python3 server.py ${port}`);
    await terminalShows(learner.page, /hostile server is up/);
    const about = { target: new URL(url).origin, endpoint: `${new URL(url).origin}/proxy/${workshop.id}/1`, workshop: workshop.id };

    await step("from the learner's browser", async (t) => {
      const result = await attack(learner.page, port, { ...about, who: "learner" }, t);
      assert.notEqual(result.origin, new URL(url).origin);
      assertHarmless(result);
    });

    await step("from the instructor's browser, who looks in", async (t) => {
      await teacher.page.getByRole("button", { name: /^Look in.*\(seat 1\)$/ }).click();
      await connected(teacher.page);
      const result = await attack(teacher.page, port, { ...about, who: "instructor" }, t);
      assertHarmless(result);
      await teacher.page.getByRole("button", { name: "Leave the seat" }).click();
    });

    await step("nothing has changed", async () => {
      const { workshops } = await (await api.get(`${url}/api/workshops`)).json();
      const names = workshops.map(({ name }) => name);
      assert.ok(names.includes("Hostile"));
      assert.ok(!names.some((name) => name.startsWith("Made by")), `no workshop was made: ${names}`);
      assert.equal(workshops.find(({ id }) => id === workshop.id).status, "running", "it was not stopped");
      for (const { page, context } of [learner, teacher]) {
        assert.equal(await page.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).length), 0);
        const planted = (await context.cookies()).filter(({ value }) => value === "planted");
        assert.deepEqual(planted, []);
      }
      // The learner's own seat still works.
      await learner.page.reload();
      await connected(learner.page);
    });
    assert.deepEqual([...teacher.problems, ...learner.problems], []);
  } finally {
    await teacher.page.goto(`${url}/instructor/workshops/${workshop.id}`);
    await deleteWorkshop(teacher.page, workshop.code);
  }
});
