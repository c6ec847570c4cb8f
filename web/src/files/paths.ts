/** Paths in a workspace: relative, separated by `/`, `""` for the workspace itself. */

export function join(directory: string, name: string): string {
  return directory === "" ? name : `${directory}/${name}`;
}

export function parentOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? "" : path.slice(0, slash);
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Whether `path` is `directory` or lies in it. */
export function isWithin(path: string, directory: string): boolean {
  return directory === "" || path === directory || path.startsWith(`${directory}/`);
}

/** `path` after `from` was renamed to `to`. */
export function moved(path: string, from: string, to: string): string {
  return path === from ? to : isWithin(path, from) ? to + path.slice(from.length) : path;
}

/** What is wrong with a path typed by the user, or null. Sub-folders are fine: they are made. */
export function checkPath(path: string): string | null {
  if (path.trim() === "") return "Type a name.";
  if (path.startsWith("/")) return "Names are within the workspace and don't begin with “/”.";
  const parts = path.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..")) return "“.”, “..” and empty parts are not possible here.";
  if (parts.some((part) => new TextEncoder().encode(part).length > 255)) return "A name has at most 255 bytes.";
  if ([...path].some((c) => c.charCodeAt(0) < 0x20)) return "Control characters are not possible here.";
  return null;
}

/** A size in bytes for people. */
export function bytes(size: number): string {
  if (size < 1024) return `${size} B`;
  for (const [unit, power] of [["KiB", 1], ["MiB", 2], ["GiB", 3]] as const) {
    const value = size / 1024 ** power;
    if (value < 1024 || unit === "GiB") return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
  }
  return `${size} B`;
}
