#!/usr/bin/env python3
"""Checks that every relative link and every `path/in/the/repository` named in the Markdown files exists."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:crates|scripts|docs|web|images|benches|tests|deploy)/[\w./-]+)`")
HEADING = re.compile(r"^#+\s+(.*)$", re.M)


def anchor(heading: str) -> str:
    text = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def problems(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{page.relative_to(ROOT)}: link to {target}, which is not there"
        elif fragment and file.suffix == ".md":
            anchors = {anchor(h) for h in HEADING.findall(file.read_text(encoding="utf-8"))}
            if fragment not in anchors:
                yield f"{page.relative_to(ROOT)}: link to {target}, which has no such heading"
    for named in CODE_PATH.findall(text):
        if not (ROOT / named).exists():
            yield f"{page.relative_to(ROOT)}: names {named}, which is not there"


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    found = [problem for page in listed for problem in problems(ROOT / page)]
    print("\n".join(found) or f"{len(listed)} pages, every link leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
