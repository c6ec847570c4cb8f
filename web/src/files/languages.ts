import { StreamLanguage, type LanguageSupport } from "@codemirror/language";
import type { Extension } from "@codemirror/state";

type Loader = () => Promise<LanguageSupport | Extension>;

const python: Loader = async () => (await import("@codemirror/lang-python")).python();
const javascript = (jsx: boolean, typescript: boolean): Loader => async () =>
  (await import("@codemirror/lang-javascript")).javascript({ jsx, typescript });
const html: Loader = async () => (await import("@codemirror/lang-html")).html();
const css: Loader = async () => (await import("@codemirror/lang-css")).css();
const json: Loader = async () => (await import("@codemirror/lang-json")).json();
const markdown: Loader = async () => (await import("@codemirror/lang-markdown")).markdown();
const rust: Loader = async () => (await import("@codemirror/lang-rust")).rust();
const cpp: Loader = async () => (await import("@codemirror/lang-cpp")).cpp();
const java: Loader = async () => (await import("@codemirror/lang-java")).java();
const go: Loader = async () => (await import("@codemirror/lang-go")).go();
const sql: Loader = async () => (await import("@codemirror/lang-sql")).sql();
const yaml: Loader = async () => (await import("@codemirror/lang-yaml")).yaml();
const xml: Loader = async () => (await import("@codemirror/lang-xml")).xml();
const php: Loader = async () => (await import("@codemirror/lang-php")).php();
const shell: Loader = async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/shell")).shell);
const toml: Loader = async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/toml")).toml);
const ruby: Loader = async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/ruby")).ruby);
const lua: Loader = async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/lua")).lua);
const dockerfile: Loader = async () =>
  StreamLanguage.define((await import("@codemirror/legacy-modes/mode/dockerfile")).dockerFile);
const properties: Loader = async () =>
  StreamLanguage.define((await import("@codemirror/legacy-modes/mode/properties")).properties);

const byExtension: Record<string, Loader> = {
  py: python, pyi: python,
  js: javascript(true, false), jsx: javascript(true, false), mjs: javascript(false, false), cjs: javascript(false, false),
  ts: javascript(false, true), tsx: javascript(true, true),
  html, htm: html, vue: html, svelte: html,
  css, scss: css,
  json, ipynb: json,
  md: markdown, markdown,
  rs: rust,
  c: cpp, h: cpp, cc: cpp, cpp, hpp: cpp,
  java, kt: java,
  go,
  sql,
  yaml, yml: yaml,
  xml, svg: xml,
  php,
  sh: shell, bash: shell, zsh: shell,
  toml,
  rb: ruby,
  lua,
  ini: properties, cfg: properties, conf: properties, env: properties, properties,
};

const byName: Record<string, Loader> = {
  Dockerfile: dockerfile,
  Makefile: shell,
  ".bashrc": shell,
  ".profile": shell,
  ".env": properties,
  "Cargo.lock": toml,
};

/** How to load the highlighting for a file, by its name; undefined when there is none. */
export function languageOf(name: string): Loader | undefined {
  return byName[name] ?? byExtension[name.slice(name.lastIndexOf(".") + 1).toLowerCase()];
}
