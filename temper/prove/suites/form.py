"""What a published suite is: where its rows are, how one becomes an example, its outcome rule, and what others did with it.

Leaves out the suites themselves (one file a family beside this one) and the reading of files (`source`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from temper.data.rows import Located
from temper.errors import DataError
from temper.prove.metrics import Metric
from temper.types import CLASSES, Example, Message

T = TypeVar("T")

_SHOWN = 40  # characters of an offending value; rows may be offensive, so errors quote little of them


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a public file: `where` it stands (`file:line`), the name of its `file` (or `set[split]`), its position.

    Every access that fails raises `DataError` with place, field, what was found and what was wanted.
    """

    where: str
    file: str
    number: int
    row: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """The first of these columns that holds text, as a string; numbers count as text."""
        found = self.optional(*names)
        if not found:
            held = ", ".join(sorted(str(name) for name in self.row)) or "(none)"
            raise DataError(f"{self.where}: field {names[0]!r}: missing or empty; wanted text in {_either(names)}; it has {held}")
        return found

    def optional(self, *names: str) -> str:
        """As `text`, "" where there is none."""
        return next((str(v).strip() for n in names if isinstance(v := self.row.get(n), str | int | float) and str(v).strip()), "")

    def choice(self, name: str, known: Mapping[str, T]) -> T:
        """What a closed set of words stands for."""
        given = self.text(name)
        if given not in known:
            raise DataError(f"{self.where}: field {name!r}: {given[:_SHOWN]!r}; wanted one of {', '.join(known)}")
        return known[given]

    def number_of(self, name: str) -> float:
        given = self.text(name)
        try:
            return float(given)
        except ValueError:
            raise DataError(f"{self.where}: field {name!r}: {given[:_SHOWN]!r}; wanted a number") from None

    def index(self, name: str, size: int) -> int:
        """A position in a list of `size`, counted from 0."""
        given = self.number_of(name)
        if given not in range(size):
            raise DataError(f"{self.where}: field {name!r}: {given:g}; wanted a whole number from 0 to {size - 1}")
        return int(given)

    def listed(self, name: str, *, least: int = 1) -> list[Any]:
        found = self.row.get(name)
        if not isinstance(found, list) or len(found) < least:
            told = f"a list of {len(found)}" if isinstance(found, list) else type(found).__name__
            raise DataError(f"{self.where}: field {name!r}: {told}; wanted a list of at least {least}")
        return found

    def told_by_file(self, known: Mapping[str, T]) -> T:
        """What only the name of the file (or the split) tells: the value of the first known word in it."""
        name = self.file.casefold()
        found = [value for word, value in known.items() if word in name]
        if not found:
            wanted = ", ".join(known)
            raise DataError(f"{self.where}: what its rows are stands only in the name of the file; wanted one of {wanted} in it")
        return found[0]

    def held(self, name: str) -> Mapping[str, Any]:
        found = self.row.get(name)
        if not isinstance(found, Mapping):
            raise DataError(f"{self.where}: field {name!r}: {type(found).__name__}; wanted an object with named fields")
        return found


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a row is no example: counted and named in the suite's facts, never dropped in silence."""

    why: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a suite is published: a dataset of the Hugging Face Hub, its configuration and its split ("" where it has one)."""

    hub: str
    config: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the authors (or R1's) ran a suite; None and "" mean that no source we have read states it.

    `max_tokens` is the cap of an answer, `judge` who decided the outcome, `said_by` the source of all this.
    """

    said_by: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    shots: int | None = None
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One published figure and what this code makes of the same stored completions, in the unit of the figure.

    `ours` is None where it was not run here, `tolerance` where the two are not of the same rows; `note` says why.
    """

    model: str
    figure: str
    expected: float | None = None
    ours: float | None = None
    n: int | None = None
    tolerance: float | None = None
    command: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.ours is None:
            return "not run here"
        if self.expected is None or self.tolerance is None:
            return "not comparable"
        return "reproduced" if round(abs(self.ours - self.expected), 9) <= self.tolerance else "not reproduced"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


NOT_RUN = (Reproduction("-", "-", note="no stored completions with a published figure were at hand; nothing is claimed"),)

Read = Callable[[Record], Iterable[Example] | LeftOut]
Reader = Callable[[Path], Iterator[Located]]


@dataclass(frozen=True, slots=True)
class Published:
    """One suite people cite.

    `origins` are read where no path is given; `license` is the data's own. `outcome` says in words what counts, `measures` names
    the metrics that do (of `metrics.table`, or of `own`, the suite's own), the headline first. `differs` is what we do otherwise,
    whatever the settings. `reader` reads a file that is no table with named columns; `needs` says which file to give
    where `origins` is empty. `seen` says which shipped judge was trained on rows of it, "" where none was.
    """

    name: str
    title: str
    origins: tuple[Origin, ...]
    license: str
    outcome: str
    measures: tuple[str, ...]
    protocol: Protocol
    differs: str
    citation: str
    read: Read
    own: Mapping[str, Metric] = field(default_factory=lambda: MappingProxyType({}))
    reproductions: tuple[Reproduction, ...] = NOT_RUN
    reader: Reader | None = None
    needs: str = ""
    seen: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What summary.json tells of a suite beside its figures."""
        return {
            "title": self.title,
            "license": self.license,
            "outcome": self.outcome,
            "protocol": {k: v for k, v in asdict(self.protocol).items() if v not in (None, "")},
            "differs": self.differs,
            "seen": self.seen,
            "citation": self.citation,
            "reproductions": [r.as_dict() for r in self.reproductions],
        }


def example(
    published: str,
    name: str,
    klass: str,
    prompt: str,
    *,
    category: str = "",
    target: str | None = None,
    language: str = "en",
    group: str = "",
    goal: str = "",
    tags: Iterable[str] = (),
    license: str = "",
) -> Example:
    """One prompt of a published suite; ids and groups carry the suite's name, so that suites can be asked together."""
    assert klass in CLASSES, klass
    free = {f"category:{category}"} if category else set()
    return Example(
        id=f"{published}-{name}",
        messages=(Message("user", prompt),),
        target=target,
        tags=frozenset({klass, *free, *tags}),
        source=published,
        license=license,
        language=language,
        group=f"{published}-{group or name}",
        goal=goal,
    )


LETTERS = "ABCDEFGH"


def lettered(question: str, options: Iterable[str], ask: str) -> str:
    """A multiple-choice prompt: the question, options by letter, and how to answer."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question}\n\n{listed}\n\n{ask}"


def slug(text: str) -> str:
    """A category's name as tags carry it."""
    return "-".join(re.findall(r"[^\W_]+", text.casefold()))


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)
