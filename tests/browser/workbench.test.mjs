/** The learner's workbench in detail: files, uploads, terminal search and clipboard, keyboard, accessibility. */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { launch, person } from "./lib/browser.mjs";
import { createWorkshop, deleteWorkshop, editor, joinWorkshop, openInstructor, tab, terminalShows, typeLine, upload } from "./lib/pages.mjs";
import { url } from "./lib/settings.mjs";
import { stepsOf } from "./lib/steps.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** Fails with what axe-core finds wrong on the page (WCAG 2.1 A and AA). */
async function assertAccessible(page, name) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core"), "utf8");
  await page.evaluate(axe);
  const violations = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] });
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`);
  });
  assert.deepEqual(violations, [], name);
}

test("the workbench in detail", { timeout: 300_000 }, async (t) => {
  const teacher = await person(browser);
  const learner = await person(browser, { permissions: ["clipboard-read", "clipboard-write"] });
  const { page } = learner;
  const dialog = page.getByRole("dialog");
  const step = stepsOf(t, { teacher, learner });
  const workshop = await createWorkshop(teacher.page, { name: "Workbench", seats: 1 });
  const pick = (name) => page.getByRole("treeitem", { name, exact: true });
  try {
    await joinWorkshop(page, { code: workshop.code, name: "" });

    await step("folders and files are made, renamed and moved", async () => {
      await page.getByRole("button", { name: "New folder" }).click();
      await dialog.getByRole("textbox").fill("src/lib");
      await dialog.getByRole("button", { name: "Create" }).click();
      await pick("lib").waitFor();
      await pick("lib").click();
      await page.getByRole("button", { name: "New file" }).click();
      assert.equal(await dialog.getByRole("textbox").inputValue(), "src/lib/", "new files go where one is");
      await dialog.getByRole("textbox").fill("../../etc/x");
      await dialog.getByRole("button", { name: "Create" }).click();
      await dialog.getByText("not possible here").waitFor();
      await dialog.getByRole("textbox").fill("src/lib/a b ü#%.py");
      await dialog.getByRole("button", { name: "Create" }).click();
      await editor(page, "src/lib/a b ü#%.py").click();
      await page.keyboard.type("x = 1");
      await page.keyboard.press("Control+s");
      await page.getByRole("button", { name: "Saved", exact: true }).waitFor();
      await pick("a b ü#%.py").click();
      await page.getByRole("button", { name: "Rename" }).click();
      await dialog.getByRole("textbox").fill("moved.py");
      await dialog.getByRole("button", { name: "Rename" }).click();
      await tab(page, "moved.py").waitFor();
      await typeLine(page, "cat moved.py; echo; find src -type f | wc -l");
      await terminalShows(page, /x = 1\s+0/);
    });

    await step("unsaved changes are not lost by closing", async () => {
      await editor(page, "moved.py").click();
      await page.keyboard.press("Control+End");
      await page.keyboard.type("23");
      await page.getByRole("button", { name: "Close moved.py" }).click();
      await dialog.getByText("changes that are not saved").waitFor();
      await page.keyboard.press("Escape");
      await editor(page, "moved.py").waitFor();
      await page.getByRole("button", { name: "Close moved.py" }).click();
      await dialog.getByRole("button", { name: "Save and close" }).click();
      await tab(page, "moved.py").waitFor({ state: "detached" });
      await typeLine(page, "clear; cat moved.py; echo");
      await terminalShows(page, /x = 123/);
    });

    await step("an upload asks before it replaces", async () => {
      await pick("moved.py").click();
      await upload(page, "up.txt", "one");
      const again = page.getByTestId("upload");
      await again.setInputFiles([{ name: "up.txt", mimeType: "text/plain", buffer: Buffer.from("two") }]);
      await dialog.getByText("Replace up.txt?").waitFor();
      await dialog.getByRole("button", { name: "Cancel" }).click();
      await typeLine(page, "clear; cat up.txt; echo =1");
      await terminalShows(page, /one=1/);
      await again.setInputFiles([{ name: "up.txt", mimeType: "text/plain", buffer: Buffer.from("two") }]);
      await dialog.getByRole("button", { name: "Replace" }).click();
      await page.getByText("1 file uploaded.").first().waitFor();
      await typeLine(page, "clear; cat up.txt; echo =2");
      await terminalShows(page, /two=2/);
    });

    await step("files with Windows line ends keep them", async () => {
      await typeLine(page, "clear; printf 'a\\r\\nb\\r\\n' > win.txt");
      await pick("win.txt").click();
      await editor(page, "win.txt").click();
      await page.keyboard.press("Control+Home");
      await page.keyboard.type("0");
      await page.keyboard.press("Enter");
      await page.keyboard.press("Control+s");
      await page.getByRole("button", { name: "Saved", exact: true }).waitFor();
      await typeLine(page, "clear; od -An -c win.txt | tr -d ' \\n'; echo");
      await terminalShows(page, /^0\\r\\na\\r\\nb\\r\\n$/m);
    });

    await step("a delete asks first and can be done by keyboard", async () => {
      await pick("src").focus();
      await page.keyboard.press("Delete");
      await dialog.getByText("everything in it").waitFor();
      await page.keyboard.press("Escape");
      await pick("src").waitFor();
      await pick("src").focus();
      await page.keyboard.press("Delete");
      await dialog.getByRole("button", { name: "Delete" }).click();
      await pick("src").waitFor({ state: "detached" });
    });

    await step("text is copied from and pasted into the terminal", async () => {
      await page.evaluate(() => navigator.clipboard.writeText("echo pasted-$((5*5))"));
      await page.locator(".terminal-view:not([hidden]) .terminal-host").click();
      await page.getByRole("button", { name: "Paste" }).click();
      await terminalShows(page, /echo pasted/);
      await page.locator(".terminal-view:not([hidden]) .terminal-host").click();
      await page.keyboard.press("Enter");
      await terminalShows(page, /^pasted-25/m);
      await page.locator(".terminal-view:not([hidden]) .terminal-host").dblclick({ position: { x: 20, y: 10 } });
      await page.keyboard.press("Control+Shift+c");
      await page.waitForFunction(async () => !(await navigator.clipboard.readText()).startsWith("echo pasted"));
      assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^\S/);
    });

    await step("the scrollback is searched", async () => {
      await typeLine(page, "clear; seq 1000 1999");
      await terminalShows(page, /^1999$/m);
      await page.locator(".terminal-view:not([hidden]) .terminal-host").click();
      await page.keyboard.press("Control+Shift+f");
      await page.getByLabel("Search the terminal").fill("1500");
      await page.getByText("1 of 1").waitFor();
      await page.keyboard.press("Escape");
      await page.getByLabel("Search the terminal").waitFor({ state: "detached" });
    });

    await step("the size of the text and of the panes changes and is kept", async () => {
      let asked = 0;
      /** The terminal's columns as its programs see them, asked until `wanted` holds. */
      const columns = async (wanted) => {
        const deadline = Date.now() + 10_000;
        for (;;) {
          asked += 1;
          await typeLine(page, `echo cols-${asked}=$(tput cols)=`);
          const seen = new RegExp(`^cols-${asked}=(\\d+)=`, "m");
          const count = Number((await terminalShows(page, seen)).match(seen)[1]);
          if (wanted(count)) return count;
          assert.ok(Date.now() < deadline, `the terminal stays at ${count} columns`);
        }
      };
      const before = await columns((count) => count > 20);
      for (let n = 0; n < 4; n += 1) await page.getByRole("button", { name: "Larger text" }).click();
      const after = await columns((count) => count < before);
      await page.getByRole("separator", { name: "Width of the files" }).focus();
      for (let n = 0; n < 5; n += 1) await page.keyboard.press("ArrowRight");
      await columns((count) => count < after);
    });

    await step("a file that a command made opens with the first click", async () => {
      await typeLine(page, "echo 42 > from-a-command.txt");
      // As a hand does it: nothing may move between the press and the release.
      const place = await pick("from-a-command.txt").boundingBox();
      await page.mouse.move(place.x + 30, place.y + place.height / 2);
      await page.mouse.down();
      await page.waitForTimeout(150);
      await page.mouse.up();
      await editor(page, "from-a-command.txt").waitFor();
    });

    await step("everything is labelled and legible", async () => {
      await page.getByRole("button", { name: "My code" }).click();
      await assertAccessible(page, "learner");
      await page.keyboard.press("Escape");
      await assertAccessible(teacher.page, "workshop");
      const other = await teacher.context.newPage();
      await openInstructor(other);
      await other.getByText("More: environment").click();
      await assertAccessible(other, "instructor");
      await other.goto(`${url}/admin`);
      await other.getByRole("heading", { name: "Runtimes" }).waitFor();
      await assertAccessible(other, "admin");
      await other.goto(`${url}/`);
      await other.getByLabel("Join code").waitFor();
      await assertAccessible(other, "start");
      await other.emulateMedia({ colorScheme: "dark" });
      await assertAccessible(other, "start, dark");
      await page.emulateMedia({ colorScheme: "dark" });
      await assertAccessible(page, "learner, dark");
      await other.close();
    });
    assert.deepEqual([...teacher.problems, ...learner.problems], []);
  } finally {
    await learner.context.close();
    await deleteWorkshop(teacher.page, workshop.code);
  }
});
