/** The learner's page on a phone: everything fits, and the keys that a touch keyboard lacks are there. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, person } from "./lib/browser.mjs";
import { createWorkshop, deleteWorkshop, editor, joinWorkshop, terminalShows } from "./lib/pages.mjs";
import { shot } from "./lib/settings.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("a phone is enough to take part", { timeout: 240_000 }, async () => {
  const teacher = await person(browser);
  const workshop = await createWorkshop(teacher.page, { name: "On the train", seats: 1 });
  const phone = await person(browser, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark" });
  const { page } = phone;
  try {
    await joinWorkshop(page, { code: workshop.code, name: "Grace" });
    await page.locator(".terminal-host").tap();
    await page.keyboard.type("sleep 600");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Control C: interrupt" }).tap();
    await page.keyboard.type("echo on-a-phone-$((20+2))");
    await page.keyboard.press("Enter");
    await terminalShows(page, /^on-a-phone-22/m);
    // Arrow up from the key row brings the last line back; sticky Ctrl makes the next letter a control character.
    await page.getByRole("button", { name: "Up", exact: true }).tap();
    await page.getByRole("button", { name: "Ctrl", exact: true }).tap();
    await page.keyboard.type("c");
    await terminalShows(page, /echo on-a-phone-\$\(\(20\+2\)\)\^C/);
    await page.screenshot({ path: shot("phone-terminal") });

    const nav = page.getByRole("navigation", { name: "Parts of the workbench" });
    await nav.getByRole("button", { name: "Files" }).tap();
    await page.getByRole("button", { name: "New file" }).tap();
    await page.getByRole("dialog").getByRole("textbox").fill("notes.md");
    await page.getByRole("dialog").getByRole("button", { name: "Create" }).tap();
    await editor(page, "notes.md").tap();
    await page.keyboard.type("# Notes");
    await page.getByRole("button", { name: "Save", exact: true }).tap();
    await page.getByRole("button", { name: "Saved", exact: true }).waitFor();
    await page.screenshot({ path: shot("phone-editor") });
    await nav.getByRole("button", { name: "Files" }).tap();
    await page.screenshot({ path: shot("phone-files") });

    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `the page is ${overflow} pixels wider than the phone`);
    assert.deepEqual(phone.problems, []);
  } finally {
    await phone.context.close();
    await deleteWorkshop(teacher.page, workshop.code);
  }
});
