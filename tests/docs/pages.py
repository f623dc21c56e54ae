"""README and the pages of docs/ as the tests of this folder read them."""

import re
from pathlib import Path

import symrun

ROOT = Path(symrun.__file__).parent.parent
DOCS = ROOT / "docs"
FRAGMENTS = sorted(DOCS.glob("results/**/remarks.md"))
"""Text that a script puts into its page."""
SITE = sorted({*DOCS.rglob("*.md")} - {*FRAGMENTS})
PAGES = [ROOT / "README.md", *SITE]


def name_of(page):
    """Such as "docs/howto/sweep.md"."""
    return page.relative_to(ROOT).as_posix()


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def fences(name, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.M | re.S)


def rows(text):
    """The cells of each row of the Markdown tables in `text`, without rules."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
