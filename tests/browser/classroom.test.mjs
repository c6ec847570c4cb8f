/** What an instructor does while a class is on, and what the learner sees of it. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, person } from "./lib/browser.mjs";
import { connected, createWorkshop, deleteWorkshop, joinWorkshop, terminalShows, terminalText, typeLine } from "./lib/pages.mjs";
import { shot, url } from "./lib/settings.mjs";
import { stepsOf } from "./lib/steps.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** Presses a button that asks back, and says yes. */
async function sayYes(page, button, confirm, fill) {
  await page.getByRole("button", { name: button, exact: true }).click();
  const dialog = page.getByRole("dialog");
  if (fill !== undefined) await dialog.getByRole("textbox").fill(fill);
  await dialog.getByRole("button", { name: confirm }).click();
  await dialog.waitFor({ state: "detached" });
}

test("a class with its incidents", { timeout: 400_000 }, async (t) => {
  const teacher = await person(browser, { colorScheme: "dark" });
  const learner = await person(browser, { colorScheme: "dark" });
  const newcomer = await person(browser);
  const step = stepsOf(t, { teacher, learner, newcomer });
  const workshop = await createWorkshop(teacher.page, { name: "Incidents", seats: 2 });
  try {
    await joinWorkshop(learner.page, { code: workshop.code, name: "Ada" });

    await step("a planned end shows as time left", async () => {
      assert.equal(await learner.page.getByRole("timer").count(), 0, "no end is planned, so no timer is shown");
      await sayYes(teacher.page, "Plan the end…", "Set the end", "30");
      await teacher.page.getByText(/ends .*left/).waitFor();
      await learner.page.getByRole("timer").waitFor({ timeout: 20_000 });
      assert.match(await learner.page.getByRole("timer").innerText(), /^(29|30) min left$/);
      await sayYes(teacher.page, "Extend…", "Extend", "60");
      await teacher.page.getByText(/1 h (29|30) min left/).waitFor();
    });

    await step("a closed door keeps newcomers out, and is said", async () => {
      await teacher.page.getByRole("button", { name: "Close for newcomers" }).click();
      await teacher.page.getByText("Closed for newcomers.").waitFor();
      await newcomer.page.goto(`${url}/join/${workshop.code}`);
      await newcomer.page.getByRole("button", { name: "Join the workshop" }).click();
      await newcomer.page.getByText("closed this workshop for newcomers").waitFor();
      await learner.page.reload();
      await connected(learner.page);
      await teacher.page.getByRole("button", { name: "Let newcomers in" }).click();
      await teacher.page.getByRole("button", { name: "Close for newcomers" }).waitFor();
    });

    await step("a seat is made anew under the learner, who keeps it", async () => {
      await typeLine(learner.page, "echo old-shell-$((1+1)); touch old-file");
      await terminalShows(learner.page, /^old-shell-2/m);
      await learner.page.getByRole("treeitem", { name: "old-file" }).waitFor();
      const seat = await learner.page.locator(".seat").innerText();
      await sayYes(teacher.page, "Reset… (seat 1)", "Make anew");
      await learner.page.getByRole("treeitem", { name: "old-file" }).waitFor({ state: "detached", timeout: 60_000 });
      await connected(learner.page);
      assert.equal(await learner.page.locator(".seat").innerText(), seat);
      await typeLine(learner.page, "echo new-shell-$((1+2))");
      const text = await terminalShows(learner.page, /^new-shell-3/m);
      assert.doesNotMatch(text, /^old-shell-2/m);
      await learner.page.screenshot({ path: shot("after-reset-dark") });
    });

    await step("a learner who is sent away is told, and may join again", async () => {
      await teacher.page.locator('[data-seat="1"][data-status="occupied"]').waitFor({ timeout: 30_000 });
      await teacher.page.screenshot({ path: shot("instructor-dark"), fullPage: true });
      await sayYes(teacher.page, "Evict… (seat 1)", "End the session");
      await learner.page.locator(".ended-reason").waitFor({ timeout: 20_000 });
      t.diagnostic(await learner.page.locator(".ended-reason").innerText());
      await learner.page.getByRole("button", { name: "Join again" }).click();
      assert.equal(await learner.page.getByLabel("Join code").inputValue(), workshop.code);
      await learner.page.getByRole("button", { name: "Join the workshop" }).click();
      await connected(learner.page);
      assert.doesNotMatch(await terminalText(learner.page), /new-shell-3/, "another environment, without the old work");
    });

    await step("a stopped workshop tells the learner, and when it goes on the learner is back by itself", async () => {
      const seat = await learner.page.locator(".seat").innerText();
      await sayYes(teacher.page, "Stop…", "Stop and remove the seats");
      await teacher.page.locator('[data-status="stopped"]').waitFor({ timeout: 60_000 });
      await learner.page.locator(".ended-reason").waitFor({ timeout: 20_000 });
      await learner.page.screenshot({ path: shot("learner-stopped") });
      await teacher.page.getByRole("button", { name: "Start", exact: true }).click();
      await teacher.page.locator('[data-testid=workshop-status][data-status="running"]').waitFor({ timeout: 120_000 });
      await connected(learner.page);
      assert.equal(await learner.page.locator(".seat").innerText(), seat);
      await typeLine(learner.page, "echo on-again-$((3+1))");
      await terminalShows(learner.page, /^on-again-4/m);
    });
    assert.deepEqual([...teacher.problems, ...learner.problems, ...newcomer.problems], []);
  } finally {
    await teacher.page.goto(`${url}/instructor/workshops/${workshop.id}`);
    await deleteWorkshop(teacher.page, workshop.code);
  }
});
