import { indentWithTab } from "@codemirror/commands";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { Compartment, EditorState, Text } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { basicSetup } from "codemirror";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { separatorOf, type Document } from "./documents";
import { languageOf } from "./languages";
import { nameOf } from "./paths";

/** Texts above this many characters are shown without highlighting. */
const HIGHLIGHT_UP_TO = 1_000_000;

export interface CodeEditorProps {
  document: Document;
  shown: boolean;
  onDirty(dirty: boolean): void;
  onSave(): void;
  /** Hands out a way to read the text as it would be written; null when the editor goes. */
  onReader(read: (() => string) | null): void;
}

const theme = EditorView.theme({
  "&": { height: "100%", backgroundColor: "var(--surface)", color: "var(--text)", fontSize: "var(--code-size)" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.5" },
  ".cm-content": { caretColor: "var(--accent)" },
  ".cm-cursor": { borderLeftColor: "var(--accent)" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--muted)", borderRight: "1px solid var(--line)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--hover)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--selection)" },
  "&.cm-focused": { outline: "none" },
  ".cm-panels, .cm-tooltip": { backgroundColor: "var(--raised)", color: "var(--text)", borderColor: "var(--line)" },
  ".cm-textfield, .cm-button": { backgroundColor: "var(--surface)", color: "var(--text)", backgroundImage: "none", border: "1px solid var(--line)" },
});

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--hl-keyword)" },
  { tag: [tags.string, tags.regexp, tags.special(tags.string)], color: "var(--hl-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--hl-number)" },
  { tag: [tags.comment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: "var(--hl-function)" },
  { tag: [tags.typeName, tags.className, tags.namespace, tags.tagName], color: "var(--hl-type)" },
  { tag: [tags.propertyName, tags.attributeName, tags.definition(tags.variableName)], color: "var(--hl-name)" },
  { tag: tags.heading, fontWeight: "bold", color: "var(--hl-keyword)" },
  { tag: tags.link, textDecoration: "underline" },
  { tag: tags.emphasis, fontStyle: "italic" },
  { tag: tags.strong, fontWeight: "bold" },
  { tag: tags.invalid, color: "var(--bad)" },
]);

/** The editor of one text file. */
export default function CodeEditor({ document, shown, onDirty, onSave, onReader }: CodeEditorProps) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | undefined>(undefined);
  const saved = useRef<Text>(Text.empty);
  const on = useRef({ onDirty, onSave });
  on.current = { onDirty, onSave };

  useLayoutEffect(() => {
    if (!host.current) return;
    const language = new Compartment();
    const editor = new EditorView({
      parent: host.current,
      state: EditorState.create({
        doc: document.text.split(separatorOf(document.text)).join("\n"),
        extensions: [
          keymap.of([
            { key: "Mod-s", preventDefault: true, run: () => (on.current.onSave(), true) },
            indentWithTab,
          ]),
          basicSetup,
          theme,
          syntaxHighlighting(colours),
          language.of([]),
          // A lone CR in a file stays what it is; in pasted text it is a line's end.
          EditorState.lineSeparator.of("\n"),
          EditorView.clipboardInputFilter.of((text) => text.replace(/\r\n?/g, "\n")),
          EditorView.contentAttributes.of({ "aria-label": `Text of ${document.path}` }),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) on.current.onDirty(!update.state.doc.eq(saved.current));
          }),
        ],
      }),
    });
    view.current = editor;
    let gone = false;
    const load = document.text.length <= HIGHLIGHT_UP_TO ? languageOf(nameOf(document.path)) : undefined;
    void load?.().then(
      (support) => {
        if (!gone) editor.dispatch({ effects: language.reconfigure(support) });
      },
      () => undefined,
    );
    return () => {
      gone = true;
      editor.destroy();
    };
  }, [document.path]);

  // What is on disk: after a save it is what the editor is compared with, after a change from outside it is shown.
  const version = useRef(document.version);
  useLayoutEffect(() => {
    const editor = view.current;
    if (!editor) return;
    const separator = separatorOf(document.text);
    const lines = Text.of(document.text.split(separator));
    saved.current = lines;
    onReader(() => editor.state.doc.sliceString(0, undefined, separator));
    if (version.current !== document.version) {
      version.current = document.version;
      const { head } = editor.state.selection.main;
      editor.dispatch({
        changes: { from: 0, to: editor.state.doc.length, insert: lines },
        selection: { anchor: Math.min(head, lines.length) },
      });
    }
    return () => onReader(null);
  }, [document.path, document.text, document.version]);

  useEffect(() => {
    if (shown) view.current?.focus();
  }, [shown]);

  return <div class="code" ref={host} hidden={!shown} />;
}
