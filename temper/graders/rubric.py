"""A rubric: what a judge reads, what it is asked, and what each of its verdicts is worth; a TOML file with a version.

Ready ones lie in `rubrics/`; any other is given by its path. Leaves out the asking (graders.judge).
"""

import tomllib
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from temper.errors import DataError, UnknownName, nearest
from temper.files import digest
from temper.types import Better

Part = Literal["conversation", "reasoning", "answer"]
Long = Literal["worst", "mean", "abstain"]

MOST_LABELS = 8
_READY = "rubrics"


@dataclass(frozen=True, slots=True)
class Label:
    """One verdict: its name, its value in [0, 1], and what it means, as the judge is told."""

    name: str
    value: float
    means: str


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation of one turn with its response; a worked example where `label` names the right verdict."""

    conversation: str
    reasoning: str
    answer: str
    label: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rubric:
    """A validated rubric.

    `long` says what becomes of a text that does not fit one window: the worst window counts, their mean, or the judge abstains
    because parts cannot be judged apart. Examples with a tag in `skips` are not judged. `pair` is the question for two responses
    side by side ("" if there is none), `probe` a response at the bad end, for `graders.canaries`.
    """

    name: str
    version: int
    reads: tuple[Part, ...]
    better: Better
    question: str
    instructions: str
    scale: tuple[Label, ...]
    examples: tuple[Case, ...] = ()
    skips: tuple[str, ...] = ()
    long: Long = "worst"
    pair: str = ""
    probe: Case | None = None

    @property
    def digest(self) -> str:
        """Hash of everything a rubric says; it changes with every word."""
        return digest(asdict(self))

    @property
    def ends(self) -> tuple[Label, Label]:
        """The label at the bad end of the scale and the one at its good end."""
        low, high = min(self.scale, key=lambda s: s.value), max(self.scale, key=lambda s: s.value)
        return (high, low) if self.better == "low" else (low, high)


def ready() -> list[str]:
    """Names of the rubrics that ship."""
    return sorted(f.name.removesuffix(".toml") for f in resources.files(__package__).joinpath(_READY).iterdir())


def load(spec: str | Path) -> Rubric:
    """A ready rubric by name, or one's own by its path, which ends in `.toml`.

    Raises `UnknownName` for a name that does not ship, `DataError` naming file, field and what was wanted.
    """
    if str(spec).endswith(".toml"):
        return _read(str(spec), _text(Path(spec)))
    if spec not in ready():
        raise UnknownName(f"no rubric is called {str(spec)!r}; {nearest(str(spec), ready())}; or give a path that ends in .toml")
    return _read(f"{spec}.toml", resources.files(__package__).joinpath(_READY, f"{spec}.toml").read_text(encoding="utf-8"))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class _Label(_Model):
    label: str = Field(min_length=1, max_length=60)
    value: float = Field(ge=0, le=1)
    means: str = Field(min_length=1)


class _Case(_Model):
    conversation: str = Field(min_length=1)
    reasoning: str = ""
    answer: str = ""
    label: str = ""
    why: str = ""


class _File(_Model):
    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    version: int = Field(ge=1)
    reads: tuple[Part, ...] = Field(min_length=1)
    better: Better
    question: str = Field(min_length=1)
    instructions: str = Field(min_length=1)
    scale: tuple[_Label, ...] = Field(min_length=2, max_length=MOST_LABELS)
    example: tuple[_Case, ...] = ()
    skips: tuple[str, ...] = ()
    long: Long = "worst"
    pair: str = ""
    probe: _Case | None = None

    @field_validator("reads")
    @classmethod
    def _a_response_is_read(cls, reads: tuple[Part, ...]) -> tuple[Part, ...]:
        if len(set(reads)) < len(reads) or not {"reasoning", "answer"} & set(reads):
            raise ValueError("wanted each part once, and at least one of 'reasoning' and 'answer'")
        return reads

    @model_validator(mode="after")
    def _labels_agree(self) -> Self:
        names = [s.label for s in self.scale]
        if len(set(names)) < len(names):
            raise ValueError("scale: two labels have the same name")
        if len({s.value for s in self.scale}) < 2:
            raise ValueError("scale: all labels have the same value, so no verdict would mean anything")
        for case in self.example:
            if case.label not in names:
                raise ValueError(f"example: label {case.label!r} is not on the scale; {nearest(case.label, names)}")
        return self


def _read(where: str, text: str) -> Rubric:
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where}: not TOML ({error})") from None
    except ValidationError as error:
        raise DataError(f"{where}: {_first(error)}") from None
    return Rubric(
        name=file.name,
        version=file.version,
        reads=file.reads,
        better=file.better,
        question=file.question,
        instructions=file.instructions,
        scale=tuple(Label(s.label, s.value, s.means) for s in file.scale),
        examples=tuple(Case(**c.model_dump()) for c in file.example),
        skips=file.skips,
        long=file.long,
        pair=file.pair,
        probe=Case(**file.probe.model_dump()) if file.probe else None,
    )


def _first(error: ValidationError) -> str:
    """Field, fault and, for a wrong key, the nearest right one."""
    found = error.errors(include_url=False)
    # a misspelt key is also a missing one, and its own name says more
    first = next((fault for fault in found if fault["type"] == "extra_forbidden"), found[0])
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        tables: dict[str | int, type[_Model]] = {"scale": _Label, "example": _Case, "probe": _Case}
        known = (tables.get(first["loc"][0], _File) if len(first["loc"]) > 1 else _File).model_fields
        return f"unknown key {field!r}; {nearest(str(first['loc'][-1]), known)}"
    return f"field {field!r}: {first['msg']}" if field else str(first["msg"]).removeprefix("Value error, ")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such rubric file; ready ones: {', '.join(ready())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from None
