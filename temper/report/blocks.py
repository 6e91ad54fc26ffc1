"""What a section of the report is made of: prose, tables and figures. HTML and Markdown are both made from these.

A figure always carries the table of its numbers: for readers who cannot see it, and for Markdown.
"""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Prose:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` hold text, in the order of `head`; the first column names its row. `note` stands below."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of `report.charts` and the same numbers as a table."""

    caption: str
    svg: Markup
    table: Table


Block = Prose | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """`anchor` is its address within the page, `lead` the sentence that says what was found, `blocks` what shows it."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
