"""One kind of table and its renderers: HTML for the report, Markdown for docs/, text for the terminal."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """Text of a table; `note` is in small print, `best` in bold."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names the row.  A row of one cell is a heading of those below."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    prose: bool = False  # text rather than numbers


def to_html(table: Table) -> str:
    """A <table>; all text is escaped, and the title is left to the page."""
    th = f'<th scope="col"{_alignment(table)}>'
    head = "".join(f"{th}{html.escape(each)}</th>" for each in table.head)
    rows = "".join(f"<tr>{_html_row(table, list(map(_cell, row)))}</tr>\n" for row in table.rows)
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>"
    return f'<div class="wide"><table>\n{body}\n</table></div>'


def to_markdown(table: Table) -> str:
    """Lines of a table without its title."""
    rule = "|" + "---|" * len(table.head)
    rows = [[f"**{c.text}**" if c.best else c.text for c in map(_cell, row)] for row in table.rows]
    return "\n".join([_markdown_row(table.head), rule, *map(_markdown_row, rows)]) + "\n"


def to_terminal(table: Table) -> RichTable:
    """For `rich`, right-aligned."""
    from rich.table import Table as RichTable

    made = RichTable(title=table.title)
    for heading in table.head:
        made.add_column(heading, justify="right")
    for row in (list(map(_cell, row)) for row in table.rows):
        if len(row) == 1:
            made.add_section()
        made.add_row(*(f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row))
    return made


def number(value: float, digits: int) -> str:
    """With a dash for NaN, and a true minus sign."""
    if math.isnan(value):
        return "–"
    text = "-∞" if value == -math.inf else "∞" if value == math.inf else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """With its sign in any case."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _cell(cell: Cell | str) -> Cell:
    return Cell(cell) if isinstance(cell, str) else cell


def _html_row(table: Table, cells: list[Cell]) -> str:
    if len(cells) == 1:
        return f'<th scope="rowgroup" colspan="{len(table.head)}">{html.escape(cells[0].text)}</th>'
    texts = [html.escape(cell.text) for cell in cells]
    texts = [f'<b class="best">{text}</b>' if c.best else text for text, c in zip(texts, cells, strict=True)]
    notes = [f'<br><span class="soft">{html.escape(cell.note)}</span>' if cell.note else "" for cell in cells]
    name, *values = (text + note for text, note in zip(texts, notes, strict=True))
    values = [f"<td{_alignment(table)}>{value}</td>" for value in values]
    return f'<th scope="row">{name}</th>' + "".join(values)


def _alignment(table: Table) -> str:
    return ' class="words"' if table.prose else ""


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
