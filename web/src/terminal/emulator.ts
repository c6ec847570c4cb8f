import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { copyText } from "../ui/clipboard";
import { currentTheme, followTheme } from "./theme";

export const FONT = 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace';

export interface EmulatorShortcuts {
  search(): void;
  fontSize(change: 1 | -1 | 0): void;
}

/** An xterm.js terminal set up our way: links, search, WebGL where it can be had, shortcuts. */
export class Emulator {
  readonly terminal: Terminal;
  readonly search = new SearchAddon();
  private readonly fit = new FitAddon();
  private readonly unfollow: () => void;

  constructor(parent: HTMLElement, fontSize: number, shortcuts: EmulatorShortcuts) {
    this.terminal = new Terminal({
      fontFamily: FONT,
      fontSize,
      lineHeight: 1.15,
      scrollback: 10_000,
      cursorBlink: true,
      theme: currentTheme(),
      minimumContrastRatio: 4.5,
      allowProposedApi: true,
      macOptionIsMeta: true,
      rightClickSelectsWord: true,
      linkHandler: { activate: (_event, uri) => openLink(uri) },
    });
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    this.terminal.loadAddon(new WebLinksAddon((_event, uri) => openLink(uri)));
    this.terminal.open(parent);
    void this.useWebgl();
    this.terminal.attachCustomKeyEventHandler((event) => this.shortcut(event, shortcuts));
    this.unfollow = followTheme((theme) => {
      this.terminal.options.theme = theme;
    });
  }

  /** The size that fills the parent now; null while it is hidden. */
  roomFor(): { cols: number; rows: number } | null {
    const parent = this.terminal.element?.parentElement;
    if (!parent || parent.clientWidth < 20 || parent.clientHeight < 20) return null;
    const size = this.fit.proposeDimensions();
    if (!size || !Number.isFinite(size.cols) || !Number.isFinite(size.rows)) return null;
    return { cols: Math.max(2, Math.min(1000, size.cols)), rows: Math.max(1, Math.min(1000, size.rows)) };
  }

  copySelection(): void {
    if (this.terminal.hasSelection()) void copyText(this.terminal.getSelection()).then(() => this.terminal.focus());
  }

  /** The last `lines` lines as text, wrapped lines joined. */
  text(lines: number): string {
    const buffer = this.terminal.buffer.active;
    const out: string[] = [];
    for (let y = Math.max(0, buffer.length - lines); y < buffer.length; y += 1) {
      const line = buffer.getLine(y);
      if (!line) continue;
      const text = line.translateToString(true);
      if (line.isWrapped && out.length > 0) out[out.length - 1] += text;
      else out.push(text);
    }
    return out.join("\n").trimEnd();
  }

  dispose(): void {
    this.unfollow();
    this.terminal.dispose();
  }

  private async useWebgl(): Promise<void> {
    try {
      const { WebglAddon } = await import("@xterm/addon-webgl");
      const webgl = new WebglAddon();
      // The browser may take the GPU away at any time; the DOM renderer takes over.
      webgl.onContextLoss(() => webgl.dispose());
      this.terminal.loadAddon(webgl);
      // Some browsers (device emulation, remote desktops) give the canvas fewer pixels than the screen has, and the
      // text comes out too large and cut off. The canvas gets its pixels from an observer, so look a moment later.
      const check = this.terminal.onRender(() => {
        const canvas = this.terminal.element?.querySelector<HTMLCanvasElement>("canvas:not(.xterm-link-layer)");
        if (!canvas || canvas.clientWidth === 0) return;
        setTimeout(() => {
          if (Math.abs(canvas.width - canvas.clientWidth * devicePixelRatio) > 0.05 * canvas.width) webgl.dispose();
        }, 200);
        check.dispose();
      });
    } catch {
      // No WebGL here: the DOM renderer stays.
    }
  }

  private shortcut(event: KeyboardEvent, shortcuts: EmulatorShortcuts): boolean {
    if (event.type !== "keydown" || !event.ctrlKey || !event.shiftKey || event.altKey) return true;
    switch (event.code) {
      case "KeyC":
        this.copySelection();
        break;
      case "KeyV":
        // Left to the browser: it pastes into the terminal's own field, without asking for permission.
        return false;
      case "KeyF":
        shortcuts.search();
        break;
      case "Equal":
      case "NumpadAdd":
        shortcuts.fontSize(1);
        break;
      case "Minus":
      case "NumpadSubtract":
        shortcuts.fontSize(-1);
        break;
      case "Digit0":
        shortcuts.fontSize(0);
        break;
      default:
        return true;
    }
    event.preventDefault();
    return false;
  }
}

/** Opens a link of the terminal's output: only to the web, and so that the page there learns nothing of this one. */
function openLink(uri: string): void {
  if (!/^https?:\/\//i.test(uri)) return;
  open(uri, "_blank", "noopener,noreferrer");
}
