"""A page as a list of blocks, written as Markdown or as one HTML file that needs no other."""

import base64
import html
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
    """Cells as in a paragraph. A column of numbers alone is set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """path: relative to the page, for Markdown; png: its bytes, for HTML."""

    title: str
    path: str = ""
    png: bytes = b""


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
            rule = ["---:" if numbers else "---" for numbers in _numbers(block)]
            lines = [head, rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(title, path):
            return f"![{title}]({path})"


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """A whole page, its pictures and its style inside."""
    body = "\n".join(map(_html, blocks))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n{body}\n</body></html>\n"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}"
    "th,td{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
    "th.n,td.n{text-align:right}"
    "img{max-width:100%}code{font-size:.9em}"
)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Table(head, rows):
            looks = [" class=n" if numbers else "" for numbers in _numbers(block)]
            top = _cells("th", looks, head)
            lines = (_cells("td", looks, row) for row in rows)
            return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
        case Picture(title, _, png):
            data = base64.b64encode(png).decode()
            return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _numbers(table: Table) -> list[bool]:
    """Of each column, whether its cells are numbers, or dashes where there is none."""
    columns = list(zip(*table.rows, strict=True)) or [("text",)] * len(table.head)
    return [all(re.match(r"[-−]?\d|-$", cell) for cell in column) for column in columns]


def _cells(tag: str, looks: Sequence[str], row: Sequence[str]) -> str:
    cells = zip(looks, row, strict=True)
    return "".join(f"<{tag}{look}>{_inline(cell)}</{tag}>" for look, cell in cells)


def _inline(text: str) -> str:
    text = html.escape(text, quote=True)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\[([^\]]+)\]\((https?:[^)\s]+)\)", r'<a href="\2">\1</a>', text)
