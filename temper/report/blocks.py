"""What a section of the report is made of: prose, tables, figures, and folded groups of them. HTML and Markdown come from these.

A figure always carries the table of its numbers: for readers who cannot see it, and for Markdown.
"""

import re
from dataclasses import dataclass

from markupsafe import Markup

NUMERIC = re.compile(r"[+\N{MINUS SIGN}<~≈]?\s?\d|–$|not (recorded|measured)|$")
"""How a cell begins that holds a number, or says that there is none."""


def halves(cell: str) -> tuple[str, str]:
    """A number and what stands in parentheses behind it, as its interval does: the page shows that below the number."""
    value, opened, rest = cell.partition(" (")
    return (value, rest[:-1]) if opened and rest.endswith(")") and ")" not in rest[:-1] else (cell, "")


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

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, and so stand to the right; never the first."""
        return tuple(i > 0 and all(NUMERIC.match(row[i].strip()) for row in self.rows) for i in range(len(self.head)))


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of `report.charts` and the same numbers as a table."""

    caption: str
    svg: Markup
    table: Table


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that stay closed until a reader opens them. `rows` is a query of the rows they rest on, as in `suite=harm`."""

    title: str
    blocks: tuple["Block", ...]
    rows: str = ""


Block = Prose | Table | Figure | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """`anchor` is its address within the page, `lead` the sentence that says what was found, `blocks` what shows it."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
