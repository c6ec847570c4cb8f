/** A workshop from beginning to end, by an instructor and learners in browsers of their own. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, person } from "./lib/browser.mjs";
import {
  connected,
  createWorkshop,
  deleteWorkshop,
  editor,
  joinWorkshop,
  newFile,
  openPreview,
  somePort,
  tab,
  terminalShows,
  typeLine,
} from "./lib/pages.mjs";
import { shot, url } from "./lib/settings.mjs";
import { stepsOf } from "./lib/steps.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("an instructor teaches, a learner works, and everything ends", { timeout: 300_000 }, async (t) => {
  const teacher = await person(browser);
  const learner = await person(browser);
  const late = await person(browser);
  let workshop;
  const step = stepsOf(t, { teacher, learner, late });

  await step("the instructor creates a workshop by clicking", async () => {
    workshop = await createWorkshop(teacher.page, { name: "Intro <b>to</b> Shells", seats: 1 });
    assert.match(await teacher.page.getByRole("heading", { level: 1 }).innerText(), /<b>to<\/b>/, "markup is shown, not run");
    await teacher.page.screenshot({ path: shot("instructor-ready"), fullPage: true });
  });

  await step("a wrong code is told apart from a good one", async () => {
    await learner.page.goto(`${url}/`);
    await learner.page.screenshot({ path: shot("start") });
    await learner.page.getByLabel("Join code").fill("K7QM-4XT0");
    await learner.page.getByRole("button", { name: "Join the workshop" }).click();
    await learner.page.getByText("Join codes never contain 0").waitFor();
    await learner.page.getByLabel("Join code").fill("3333-3333");
    await learner.page.getByRole("button", { name: "Join the workshop" }).click();
    await learner.page.getByText("No workshop has this code").waitFor();
  });

  await step("a learner joins and the terminal answers", async (t) => {
    await joinWorkshop(learner.page, { code: workshop.code, name: "Ada" });
    assert.ok(!learner.page.url().includes("-"), "no code in the address");
    await typeLine(learner.page, 'echo "i-am=$(whoami)="');
    const text = await terminalShows(learner.page, /^i-am=[a-z][\w-]*=/m);
    t.diagnostic(text.match(/^i-am=.*=/m)[0]);
  });

  await step("a full workshop says so", async () => {
    await late.page.goto(`${url}/join/${workshop.code.toLowerCase()}`);
    assert.equal(await late.page.getByLabel("Join code").inputValue(), workshop.code);
    await late.page.getByRole("button", { name: "Join the workshop" }).click();
    await late.page.getByText("Every seat of this workshop is taken").waitFor();
  });

  await step("a file is created, edited, saved and seen in the terminal", async () => {
    const { page } = learner;
    await newFile(page, "hello.py");
    await editor(page, "hello.py").click();
    await page.keyboard.type("print('héllo, world 😀')");
    await page.getByRole("button", { name: "Save", exact: true }).waitFor();
    await page.keyboard.press("Control+s");
    await page.getByRole("button", { name: "Saved", exact: true }).waitFor();
    await typeLine(page, "cat hello.py; echo; echo end-of-file");
    await terminalShows(page, /print\('héllo, world 😀'\)\s+end-of-file/);
    await page.screenshot({ path: shot("learner") });
  });

  await step("the editor follows changes on disk, and never overwrites them silently", async () => {
    const { page } = learner;
    await typeLine(page, "echo '# from the shell' > hello.py");
    await page.locator(".cm-line", { hasText: "# from the shell" }).waitFor();
    await editor(page, "hello.py").click();
    await page.keyboard.press("Control+End");
    await page.keyboard.type("mine = 1");
    await typeLine(page, "echo '# again' > hello.py");
    await page.getByText("changed on disk while you were editing").waitFor();
    await editor(page, "hello.py").click();
    await page.keyboard.press("Control+s");
    await page.screenshot({ path: shot("conflict") });
    await typeLine(page, "cat hello.py; echo still-there");
    await terminalShows(page, /# again\s+still-there/);
    await page.getByRole("button", { name: "Overwrite with mine" }).click();
    await page.getByRole("button", { name: "Saved", exact: true }).waitFor();
    await typeLine(page, "cat hello.py; echo; echo now-mine");
    await terminalShows(page, /# from the shell\s+mine = 1\s+now-mine/);
  });

  await step("binary files are not opened as text", async () => {
    const { page } = learner;
    await typeLine(page, "printf '\\377\\000\\001' > data.bin");
    await page.getByRole("treeitem", { name: "data.bin" }).click();
    await page.getByText("is not a text file").waitFor();
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.locator(".editor-pane").getByRole("button", { name: "Download" }).click(),
    ]);
    const { readFile } = await import("node:fs/promises");
    assert.deepEqual([...(await readFile(await download.path()))], [255, 0, 1]);
    await page.getByRole("button", { name: "Close data.bin" }).click();
  });

  await step("a second terminal, and its end", async () => {
    const { page } = learner;
    await page.getByRole("button", { name: "New terminal" }).click();
    await page.locator(".tab.active", { hasText: "Terminal 2" }).waitFor();
    await connected(page);
    await typeLine(page, "exit 7");
    await page.getByText("The shell has ended with code 7.").waitFor();
    await page.getByRole("button", { name: "Close this one" }).click();
    await tab(page, "Terminal 2").waitFor({ state: "detached" });
  });

  await step("a reload gives the same seat with its terminal", async () => {
    const { page } = learner;
    await typeLine(page, "echo before-the-$((40+2))-reload");
    await terminalShows(page, /^before-the-42-reload/m);
    const seat = await page.locator(".seat").innerText();
    await page.reload();
    await connected(page);
    assert.equal(await page.locator(".seat").innerText(), seat);
    await terminalShows(page, /^before-the-42-reload/m);
  });

  await step("a lost connection comes back without losing anything", async () => {
    const { page, context } = learner;
    await typeLine(page, "for i in 1 2 3 4 5 6; do sleep 0.5; echo tick-$i; done");
    await context.setOffline(true);
    await page.evaluate(() => dispatchEvent(new Event("offline")));
    await context.setOffline(false);
    const text = await terminalShows(page, /tick-6/);
    for (let n = 1; n <= 6; n += 1) assert.match(text, new RegExp(`^tick-${n}$`, "m"));
  });

  await step("a preview opens in a tab of its own", async () => {
    const { page } = learner;
    const port = somePort();
    await typeLine(page, `python3 -m http.server ${port} --bind 127.0.0.1`);
    const preview = await openPreview(page, port);
    await preview.getByText("hello.py").waitFor();
    // An origin of its own, or an opaque one ("null") in a sandbox.
    assert.notEqual(await preview.evaluate(() => self.origin), new URL(url).origin);
    assert.ok(!/capability|token/.test(preview.url()), "no capability in the address");
    await preview.screenshot({ path: shot("preview") });
    await preview.close();
    await page.locator(".terminal-host").first().click();
    await page.keyboard.press("Control+c");
  });

  await step("the instructor sees who is at work, looks in and helps", async () => {
    const { page } = teacher;
    const card = page.locator('[data-seat="1"][data-status="occupied"]');
    await card.waitFor();
    await card.getByText("Ada").waitFor();
    await card.getByText("Working").waitFor();
    await page.screenshot({ path: shot("instructor-occupied"), fullPage: true });
    await page.getByRole("button", { name: /^Look in.*\(seat 1\)$/ }).click();
    await connected(page);
    await terminalShows(page, /before-the-42-reload/);
    await typeLine(page, "echo help-from-the-teacher-$((6*7))");
    await terminalShows(learner.page, /^help-from-the-teacher-42/m);
    await page.screenshot({ path: shot("look-in") });
    await page.getByRole("button", { name: "Leave the seat" }).click();
    await card.waitFor();
  });

  await step("the admin sees the environment", async () => {
    const admin = await teacher.context.newPage();
    await admin.goto(`${url}/admin`);
    await admin.getByRole("cell", { name: workshop.id }).first().waitFor();
    await admin.screenshot({ path: shot("admin"), fullPage: true });
    await admin.close();
  });

  await step("the session code brings the learner back from another device", async () => {
    const { page } = learner;
    await page.getByRole("button", { name: "My code" }).click();
    const code = await page.locator(".secret").innerText();
    const tablet = await person(browser, { viewport: { width: 820, height: 1180 }, hasTouch: true });
    await tablet.page.goto(`${url}/`);
    await tablet.page.getByText("Come back from another device").click();
    await tablet.page.getByLabel("Your session code").fill(code.toLowerCase());
    await tablet.page.getByRole("button", { name: "Come back" }).click();
    await connected(tablet.page);
    await terminalShows(tablet.page, /before-the-42-reload/);
    assert.ok(!tablet.page.url().includes(code));
    assert.deepEqual(tablet.problems, []);
    await tablet.context.close();
    await page.keyboard.press("Escape");
  });

  await step("the workshop ends for good, and the learner is told", async () => {
    await deleteWorkshop(teacher.page, workshop.code);
    await learner.page.locator(".ended-reason").or(learner.page.getByText("This session is over")).waitFor({ timeout: 20_000 });
    t.diagnostic(await learner.page.getByRole("alert").innerText());
    await learner.page.screenshot({ path: shot("learner-ended") });
    await teacher.page.screenshot({ path: shot("instructor-gone") });
  });

  assert.deepEqual([...teacher.problems, ...learner.problems, ...late.problems], []);
});
