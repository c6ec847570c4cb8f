#!/usr/bin/env python3
"""Holds the Markdown files to the repository.

Every relative link, and every `path/in/the/repository` that is named, leads somewhere. Tables of settings have the code's
settings with their defaults, pages on an API its calls and error codes, pages on a program its exit codes and flags: all of
them, and no others. What is measured and deployed is checked by scripts/check-deploy.py.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:crates|scripts|docs|web|images|benches|tests|deploy)/[\w./-]+)`")
VERBS = ("GET", "POST", "PUT", "DELETE")
HEADING = re.compile(r"^#+\s+(.*)$", re.M)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    text = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for page in (ROOT / name for name in listed if (ROOT / name).exists()):
        text = page.read_text(encoding="utf-8")
        for target in LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                yield f"{page.relative_to(ROOT)}: link to {target}, which is not there"
            elif fragment and file.suffix == ".md":
                if fragment not in {anchor(h) for h in HEADING.findall(file.read_text(encoding="utf-8"))}:
                    yield f"{page.relative_to(ROOT)}: link to {target}, which has no such heading"
        for named in CODE_PATH.findall(text):
            if not (ROOT / named).exists():
                yield f"{page.relative_to(ROOT)}: names {named}, which is not there"


def rows(page: str, under: str = ""):
    """The cells of all table rows of a page, or of those beneath one heading."""
    text = read(page)
    if under:
        found = re.search(rf"^(#+) {re.escape(under)}$(.*?)(?=^#{{1,6}} |\Z)", text, re.M | re.S)
        assert found, f"{page} has no heading {under}"
        text = found[2]
    for line in re.findall(r"^\|(.*)\|$", text, re.M):
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
        if not set(cells[0]) <= {"-", ":", " "}:
            yield cells


def differ(page: str, what: str, told: set, real: set):
    """What a page does not tell, and what it tells that is not so."""
    for one in sorted(map(str, real - told)):
        yield f"{page}: {what} {one} is missing"
    for one in sorted(map(str, told - real)):
        yield f"{page}: there is no {what} {one}"


def settings(program: str) -> dict[str, str]:
    """The table that `--help` prints: names with their defaults."""
    source = read(f"crates/{program}/src/config/settings.rs")
    return dict(re.findall(r'\(\s*"([A-Z_0-9]+)",\s*"([^"]*)",', source))


def told_settings(page: str, under: str, name: int, default: int) -> dict[str, str]:
    told = {}
    for cells in rows(page, under):
        names = re.findall(r"`([A-Z][A-Z_0-9]+)`", cells[name])
        defaults = cells[default].split(", ") if len(names) > 1 else [cells[default]]
        if len(defaults) == 1:
            defaults *= len(names)
        told.update(zip(names, (text.strip("`") for text in defaults), strict=True))
    return told


def settings_are_told():
    server, agent = settings("server"), settings("agent")
    fleet = told_settings("docs/gcp.md", "A fleet that grows and shrinks", 0, 1)
    pages = [
        ("docs/settings.md", "", 0, 2, server, set(server) - set(fleet) | {"FLEET_MAX", "GCP_PROJECT", "GCP_API_URL"}),
        ("docs/gcp.md", "A fleet that grows and shrinks", 0, 1, server, {n for n in server if n.startswith("FLEET_")}),
        ("docs/agent.md", "Settings", 0, 2, agent, set(agent)),
        ("README.md", "server", 0, 2, server, set()),
        ("README.md", "agent", 0, 2, agent, set()),
    ]
    for page, under, name, default, real, needed in pages:
        told = told_settings(page, under, name, default)
        yield from differ(page, "setting", set(told), set(told) & set(real) | needed)
        for setting, value in told.items():
            # Words differ ("beside the executable"); values don't.
            is_value = re.fullmatch(r"[\w./:-]+", value) and re.fullmatch(r"[\w./:-]+", real.get(setting, " "))
            if is_value and value != real[setting]:
                yield f"{page}: the default of {setting} is {real[setting]}, and not {value}"


def plain(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0])


def calls(program: str) -> set[str]:
    """The calls of a program, with their parameters' names left out."""
    found = set()
    for file in (ROOT / f"crates/{program}/src/routes").glob("**/*.rs"):
        text = file.read_text(encoding="utf-8")
        made = re.findall(r'utoipa::path\((\w+), path = "([^"]+)"', text)
        made += [("get", path) for path in re.findall(r'"(/[\w/]*openapi\.json)"', text)]
        found.update(f"{verb.upper()} {plain(path)}" for verb, path in made)
    return found


def told_calls(page: str) -> set[str]:
    """As in "`GET`, `POST /api/a`, `/b`, `DELETE …/{id}`": verbs hold for what follows, `/b` is beside `/api/a`, … is the first."""
    told = set()
    for cells in rows(page):
        verbs, first, before = [], "", ""
        for verb, path in re.findall(r"`(?:(GET|POST|PUT|DELETE)\b)? ?([/…][^`]*)?`", cells[0]):
            if verb:
                verbs = [verb] if before else [*verbs, verb]
            if not path:
                continue
            if path.startswith("…"):
                path = first + path.removeprefix("…")
            elif before.startswith("/api") and not path.startswith("/api"):
                path = before.rpartition("/")[0] + path
            first, before = first or path, path
            told.update(f"{verb} {plain(path)}" for verb in verbs)
    return told


def codes(source: str, upper: bool) -> set[str]:
    text = read(source)
    table = text[text.index("error_codes! {") :]
    names = re.findall(r"^    (\w+) = \d+,$", table[: table.index("\n}")], re.M)
    snake = (re.sub(r"(?<!^)(?=[A-Z])", "_", name) for name in names)
    return {name.upper() if upper else name.lower() for name in snake}


def apis_are_told():
    for page, under, program, source, upper in [
        ("docs/agent-api.md", "Errors", "agent", "crates/api/src/agent/error.rs", False),
        ("docs/api.md", "Errors", "server", "crates/api/src/error.rs", True),
    ]:
        yield from differ(page, "call", told_calls(page), calls(program))
        told = {code for cells in rows(page, under) for code in re.findall(r"`(\w+)`", cells[0])}
        yield from differ(page, "error code", told, codes(source, upper))


def readme_calls_are_there():
    told = {f"{cells[0]} {plain(cells[1].strip('`'))}" for cells in rows("README.md", "agent") if cells[0] in VERBS}
    yield from differ("README.md", "call", told, told & calls("agent"))
    named = re.findall(r"`((?:GET|POST|PUT|DELETE) /api/[^`]*)`", read("README.md"))
    told = {plain(call) for call in named}
    yield from differ("README.md", "call", told, told & calls("server"))


def exit_codes_are_told():
    vmctl = read("crates/vmctl/src/failure.rs")
    real = {int(code) for code in re.findall(r"=> (\d+),", vmctl)} | {0}
    told = {int(cells[0]) for cells in rows("docs/vmctl.md", "Exit codes") if cells[0].isdigit()}
    yield from differ("docs/vmctl.md", "exit code", told, real)
    rootfs = read("crates/rootfs/src/error.rs")
    real = {int(code) for code in re.findall(r"pub const \w+: u8 = (\d+);", rootfs)} | {0, 129, 130, 143}
    told = {int(n) for cells in rows("docs/rootfs.md", "Exit codes") for n in re.findall(r"\d+", cells[0])}
    yield from differ("docs/rootfs.md", "exit code", told, real)


def flags(folder: str) -> set[str]:
    """The long options of a command line, but for hidden ones."""
    found = set()
    for file in (ROOT / folder).glob("**/*.rs"):
        text = file.read_text(encoding="utf-8")
        for given, name in re.findall(r"#\[arg\((.*)\)\]\s+(?:pub(?:\(\w+\))? )?(\w+):", text):
            if re.search(r"\blong\b", given) and not re.search(r"\bhide = true", given):
                own = re.search(r'\blong = "([\w-]+)"', given)
                found.add("--" + (own[1] if own else name.replace("_", "-")))
    return found


def flags_are_told():
    real = flags("crates/vmctl/src")
    told = set(re.findall(r"--[a-z][a-z0-9-]+", re.sub(r"```.*?```|`gcloud [^`]*`", "", read("docs/vmctl.md"), flags=re.S)))
    yield from differ("docs/vmctl.md", "flag", told, real)
    for page, under in [("docs/rootfs.md", "Flags"), ("README.md", "rootfs-builder")]:
        told = {flag for cells in rows(page, under) for flag in re.findall(r"--[a-z-]+", cells[0])}
        real = flags("crates/rootfs/src")
        yield from differ(page, "flag", told, real - ({"--format"} if page == "README.md" else set()))


def main() -> int:
    checks = [
        links,
        settings_are_told,
        apis_are_told,
        readme_calls_are_there,
        exit_codes_are_told,
        flags_are_told,
    ]
    found = [problem for check in checks for problem in check()]
    print("\n".join(found) or "every link leads somewhere; settings, calls, codes and flags are as in the code")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
