import type { ITheme } from "@xterm/xterm";

const dark: ITheme = {
  background: "#11161d",
  foreground: "#dbe2ea",
  cursor: "#5eead4",
  cursorAccent: "#11161d",
  selectionBackground: "#2f5d78",
  black: "#1b222c", red: "#f2777a", green: "#7fd48a", yellow: "#f0c674",
  blue: "#7cb1f4", magenta: "#d7a1f0", cyan: "#6fd6d0", white: "#dbe2ea",
  brightBlack: "#7a8796", brightRed: "#ff9b9d", brightGreen: "#a3e6ab", brightYellow: "#ffdd9a",
  brightBlue: "#a6cbff", brightMagenta: "#e7c0fa", brightCyan: "#9aeae5", brightWhite: "#ffffff",
};

const light: ITheme = {
  background: "#ffffff",
  foreground: "#1d2630",
  cursor: "#0f766e",
  cursorAccent: "#ffffff",
  selectionBackground: "#b7dff0",
  black: "#1d2630", red: "#b3261e", green: "#1a6b2c", yellow: "#7a5200",
  blue: "#1f4fa8", magenta: "#7b2d9b", cyan: "#0b6470", white: "#5b6673",
  brightBlack: "#5f6b78", brightRed: "#d0342c", brightGreen: "#237f38", brightYellow: "#946300",
  brightBlue: "#2a63cf", brightMagenta: "#9440b8", brightCyan: "#0f7b89", brightWhite: "#1d2630",
};

const scheme = matchMedia("(prefers-color-scheme: dark)");

export const currentTheme = (): ITheme => (scheme.matches ? dark : light);

/** Calls back with the theme whenever the system's colour scheme changes, until the returned function is called. */
export function followTheme(changed: (theme: ITheme) => void): () => void {
  const listener = () => changed(currentTheme());
  scheme.addEventListener("change", listener);
  return () => scheme.removeEventListener("change", listener);
}
