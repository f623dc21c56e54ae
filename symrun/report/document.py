"""A page as a list of blocks, written as Markdown; the HTML page shows the same tables."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """text: may hold `code` and [links](address), as in Markdown."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells are text as in a paragraph: names from outside go through `code` or `literal`.

    A column of numbers alone is set to the right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether its cells are numbers, or dashes where there is none."""
        columns = list(zip(*self.rows, strict=True)) or [("text",)] * len(self.head)
        return [all(re.match(r"[-−]?\d|-$", cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """path: relative to the page."""

    title: str
    path: str


Block = Heading | Paragraph | Table | Picture


def as_markdown(blocks: Sequence[Block]) -> str:
    """Example: as_markdown([Heading("Runs", 1)]) == "# Runs\\n" """
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Table(head, rows):
            rule = ["---:" if numbers else "---" for numbers in block.numeric]
            lines = [head, rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(title, path):
            return f"![{title}]({path})"


def code(text: str) -> str:
    """`text` as code, whatever characters it has.

    Example: code("a`b") == "``a`b``"
    """
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{fence}{room}{text}{room}{fence}"


def literal(text: str) -> str:
    r"""`text` in which backticks are characters, and no mark of code.

    Example: literal("a`b") == r"a\`b"
    """
    return text.replace("`", r"\`")


def formatted(value: float | None, form: str) -> str:
    """A number as a cell: a dash if it is not there or not finite.

    Example: formatted(2.5e-7, ".1e") == "2.5e-07"
    """
    return format(value, form) if value is not None and math.isfinite(value) else "-"
