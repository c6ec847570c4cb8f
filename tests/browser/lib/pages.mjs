/** The steps that people take in the pages, by clicking and typing only. */

import assert from "node:assert/strict";
import { image, runtime, token, url } from "./settings.mjs";

/** Opens the instructor's page, logged in. */
export async function openInstructor(page) {
  await page.goto(`${url}/instructor`);
  const login = page.getByLabel("Your token");
  const form = page.getByRole("heading", { name: "New workshop" });
  await login.or(form).waitFor();
  if (await login.isVisible()) {
    await login.fill(token);
    await page.getByRole("button", { name: "Log in" }).click();
    await form.waitFor();
  }
}

/** Creates a workshop and waits until learners can join with their seats ready. Returns its code and id. */
export async function createWorkshop(page, { name, seats }) {
  await openInstructor(page);
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Seats", { exact: true }).fill(String(seats));
  if (runtime !== "" || image !== "") {
    await page.getByText("More: environment").click();
    if (runtime !== "") await page.getByLabel("Runtime", { exact: true }).selectOption(runtime);
    if (image !== "") await page.getByLabel("Container image", { exact: true }).fill(image);
  }
  await page.getByRole("button", { name: "Create workshop" }).click();
  await page.waitForURL(/\/instructor\/workshops\/[^/]+$/);
  const code = (await page.getByTestId("join-code").innerText()).trim();
  assert.match(code, /^[A-Z0-9]{4}-[A-Z0-9]{4}$/);
  await page.locator('[data-testid=workshop-status][data-status="running"]').waitFor({ timeout: 120_000 });
  for (let seat = 1; seat <= seats; seat += 1) {
    await page.locator(`[data-seat="${seat}"][data-status="ready"]`).waitFor({ timeout: 120_000 });
  }
  return { code, id: decodeURIComponent(new URL(page.url()).pathname.split("/").at(-1)) };
}

/** Joins from the start page and waits for the terminal. */
export async function joinWorkshop(page, { code, name }) {
  await page.goto(`${url}/`);
  await page.getByLabel("Join code").fill(code);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join the workshop" }).click();
  await page.waitForURL(`${url}/learn`);
  await connected(page);
}

export async function connected(page) {
  await page.locator(".connection.connected").waitFor({ timeout: 60_000 });
  await page.locator(".terminal-view:not([hidden]) .xterm").waitFor();
}

/** Types a line into the terminal in front. */
export async function typeLine(page, line) {
  await page.locator(".terminal-view:not([hidden]) .terminal-host").click();
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

/** The text of the terminal in front, read the way a person on a tablet copies it. */
export async function terminalText(page) {
  const copy = page.locator(".terminal-view:not([hidden]) .key-row").getByRole("button", { name: "Copy" });
  if (!(await copy.isVisible())) await page.getByRole("button", { name: "Extra keys" }).click();
  await copy.click();
  const dialog = page.getByRole("dialog");
  const text = await dialog.getByLabel("The last 500 lines").inputValue();
  await dialog.getByRole("button", { name: "Done" }).click();
  await dialog.waitFor({ state: "detached" });
  return text;
}

/** Waits until the terminal shows `pattern`, and returns its text. */
export async function terminalShows(page, pattern, timeout = 20_000) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const text = await terminalText(page);
    if (pattern.test(text)) return text;
    assert.ok(Date.now() < deadline, `the terminal never showed ${pattern}; it shows:\n${text}`);
    await page.waitForTimeout(100);
  }
}

/** Makes a file by the button, and leaves its editor open. */
export async function newFile(page, path) {
  await page.getByRole("button", { name: "New file" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill(path);
  await dialog.getByRole("button", { name: "Create" }).click();
  await editor(page, path).waitFor();
}

/** The editor of a file; visible while that file is in front. */
export const editor = (page, path) => page.getByLabel(`Text of ${path}`, { exact: true });

/** The button that brings a file or terminal to the front. */
export const tab = (page, name) => page.getByRole("button", { name, exact: true });

/** Puts a file into the workspace by the upload button. */
export async function upload(page, name, text) {
  await page.getByTestId("upload").setInputFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });
  await page.getByRole("treeitem", { name }).waitFor();
}

/** Opens the preview of a port; returns the new tab. */
export async function openPreview(page, port) {
  const item = page.getByRole("button", { name: `Open port ${port}` });
  const menu = page.getByRole("button", { name: /^Preview/ });
  await page.getByRole("button", { name: /^Preview \(/ }).waitFor({ timeout: 30_000 });
  if (!(await item.isVisible())) await menu.click();
  const [tab] = await Promise.all([page.context().waitForEvent("page"), item.click()]);
  await tab.waitForLoadState();
  return tab;
}

/** Deletes the workshop that the page shows, and waits until the server says that nothing is left. */
export async function deleteWorkshop(page, code) {
  await page.getByRole("button", { name: "Delete…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  const field = dialog.getByRole("textbox");
  if (await field.isVisible()) await field.fill(code);
  await dialog.getByRole("button", { name: "Delete" }).click();
  await page.getByText("Everything that was made for it has been removed.").waitFor({ timeout: 60_000 });
}

/** A port that hardly anything else uses: seats of the runtime `process` share this machine's. */
export const somePort = () => 20_000 + Math.floor(Math.random() * 20_000);
