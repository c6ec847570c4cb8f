import { describe, expect, it } from "vitest";
import { none, separatorOf, update, type Documents, type DocumentAction } from "../src/files/documents";
import { bytes, checkPath, isWithin, moved } from "../src/files/paths";
import { empty, loaded, renamed, rows, stale, unfolded, unreadable } from "../src/files/tree";
import { encodePath, type Entry } from "../src/seat/files";

const entry = (name: string, type: Entry["type"] = "file"): Entry => ({ name, type, size: 1, mtime: 0, mode: 0o644 });

describe("paths", () => {
  it("go into URLs part by part", () => expect(encodePath("a b/ü?#%.txt")).toBe("a%20b/%C3%BC%3F%23%25.txt"));

  it.each(["", " ", "/etc/passwd", "../x", "a//b", "a/./b", "a/", "a\0b", "x".repeat(256)])("refuses %j", (path) =>
    expect(checkPath(path)).not.toBeNull(),
  );

  it.each(["a", "src/main.py", "with space", ".env", "ü/日本"])("takes %j", (path) => expect(checkPath(path)).toBeNull());

  it("move with their folder", () => {
    expect(moved("a/b/c", "a", "z")).toBe("z/b/c");
    expect(moved("ab/c", "a", "z")).toBe("ab/c");
    expect(isWithin("ab", "a")).toBe(false);
  });

  it("have sizes for people", () => expect([0, 1023, 1536, 5 << 20, 3 * 2 ** 40].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072 GiB"]));
});

describe("tree", () => {
  const root = loaded(empty, { path: "", entries: [entry("b.txt"), entry("a10"), entry("a2"), entry("src", "directory")] });
  const open = unfolded(loaded(root, { path: "src", entries: [entry("x.py")] }), "src", true);

  it("shows folders first and numbers in order", () => expect(rows(root).map((r) => r.name)).toEqual(["src", "a2", "a10", "b.txt"]));

  it("shows what is unfolded, one deeper", () => expect(rows(open).slice(0, 2)).toMatchObject([{ path: "src", open: true, depth: 1 }, { path: "src/x.py", depth: 2 }]));

  it("forgets a folder that is gone, with what is in it", () => {
    const after = loaded(open, { path: "", entries: [entry("b.txt")] });
    expect([...after.directories.keys()]).toEqual([""]);
  });

  it("reads again what changed among what is shown", () => {
    expect(stale(open, ["src", "node_modules/x"], false)).toEqual(["src"]);
    expect(stale(open, [], true)).toEqual(["", "src"]);
  });

  it("keeps a renamed folder unfolded", () => expect(renamed(open, "src", "lib").open.has("lib")).toBe(true));

  it("keeps the entries of a folder that can't be read just now", () => {
    expect(unreadable(root, "", "down").directories.get("")).toMatchObject({ problem: "down", entries: { length: 4 } });
  });
});

describe("documents", () => {
  const open = (path: string) => ({ type: "opened", document: { path, kind: "text", size: 3, etag: "1", text: "old" } }) as const;
  const run = (...actions: DocumentAction[]): Documents => actions.reduce(update, none);

  it("shows what changed on disk when there is nothing of the user's to lose", () => {
    const { open: [document] } = run(open("a"), { type: "onDisk", path: "a", text: "new", etag: "2", size: 3 });
    expect(document).toMatchObject({ text: "new", etag: "2", version: 1, conflict: null, dirty: false });
  });

  it("never replaces unsaved edits: it is a conflict, and saving still names the old version", () => {
    const { open: [document] } = run(open("a"), { type: "edited", path: "a", dirty: true }, { type: "onDisk", path: "a", text: "new", etag: "2", size: 3 });
    expect(document).toMatchObject({ text: "old", etag: "1", version: 0, dirty: true, conflict: { what: "changed", etag: "2" } });
  });

  it("takes the version on disk when the user says so", () => {
    const { open: [document] } = run(
      open("a"),
      { type: "edited", path: "a", dirty: true },
      { type: "onDisk", path: "a", text: "new", etag: "2", size: 3 },
      { type: "takeTheirs", path: "a" },
    );
    expect(document).toMatchObject({ text: "new", etag: "2", version: 1, dirty: false, conflict: null });
  });

  it("sees no conflict in its own save coming back as a change event", () => {
    const { open: [document] } = run(
      open("a"),
      { type: "edited", path: "a", dirty: true },
      { type: "saving", path: "a" },
      { type: "saved", path: "a", text: "mine", etag: "2", current: false },
      { type: "onDisk", path: "a", text: "mine", etag: "2", size: 4 },
    );
    expect(document).toMatchObject({ dirty: true, conflict: null, text: "mine", version: 0 });
  });

  it("keeps unsaved edits of a file that is deleted elsewhere", () => {
    const { open: [document] } = run(open("a"), { type: "edited", path: "a", dirty: true }, { type: "goneFromDisk", path: "a" });
    expect(document).toMatchObject({ dirty: true, conflict: { what: "deleted" } });
  });

  it("brings a neighbour to the front when one is closed, and follows renames", () => {
    const three = run(open("a"), open("d/b"), open("c"), { type: "shown", path: "d/b" });
    expect(update(three, { type: "closed", path: "d/b" }).active).toBe("c");
    expect(update(three, { type: "renamed", from: "d", to: "e" }).active).toBe("e/b");
    expect(update(three, { type: "removed", path: "d" }).open.map((d) => d.path)).toEqual(["a", "c"]);
    expect(update(run(open("a")), { type: "closed", path: "a" })).toEqual(none);
  });

  it.each(["", "a", "a\n", "a\r\nb\r\n", "a\r\nb\n", "a\rb", "a\rb\r\n", "\r\n", "\n\r\n"])("splits %j so that joining gives it back", (text) => {
    const separator = separatorOf(text);
    expect(text.split(separator).join(separator)).toBe(text);
    expect(separator).toBe(/^[^\r\n]*(\r\n[^\r\n]*)+$/.test(text) || text === "a\rb\r\n" ? "\r\n" : "\n");
  });
});
