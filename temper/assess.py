"""A grader beside labelled files: its card and its calibration. Where data meets graders; the mathematics is in both."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

from temper import catalog, registry
from temper.data.labels import TARGETS, Labelled, Target, read_labels
from temper.errors import DataError
from temper.files import digest, file_sha256, read_json, write_json, write_text
from temper.graders import calibrate, card
from temper.graders.calibrate import By, Calibration, Criterion, Method
from temper.graders.card import Judged
from temper.rewards.signal import grade
from temper.types import Better, Completion, Named, Score

CHUNK = 64
REFUSALS = ("refusal", "over-refusal")
# The good end of graders that a function makes: asking the grader itself would load its model.
ENDS: dict[str, Better] = {
    "harm": "low",
    "request-harm": "low",
    "gold": "low",
    "process": "low",
    "refusal": "high",
    "over-refusal": "low",
}
CALIBRATION_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Assessed:
    """A grader's opinion of every labelled row, what it was asked, and what was left out of the files."""

    spec: str
    grader: Named
    target: Target
    rising: bool
    rows: tuple[Judged, ...]
    data: Mapping[str, Any]

    def positive(self) -> str:
        """Which end of the grader is the label's yes, in words."""
        end = "high" if self.rising else "low"
        return (
            f"Positive is {self.target.positive[0]!r} in the field {self.target.column!r}; the grader's good end is "
            f"{self.grader.better}, so its {end} values are read as positive."
        )


def default_target(name: str) -> str:
    """What a grader is most likely about, by its name: a refusal, a request, or an unsafe answer."""
    return "refusal" if name in REFUSALS else "request" if "request" in name else "unsafe"


def assess(spec: str, sources: Sequence[str], asked: Target | None = None, *, split: str | None = None) -> Assessed:
    """Ask a grader about every labelled row of some files. Raises `DataError` (file and line) and `UnknownName`."""
    grader = catalog.grader(spec)
    asked = asked or TARGETS[default_target(grader.name)]
    labels = read_labels(sources, asked, split=split)
    rising = card.rises(grader.better, asked.bad)
    scores = [s for n in range(0, len(labels.rows), CHUNK) for s in _graded(grader, labels.rows[n : n + CHUNK])]
    rows = tuple(_judged(row, score, rising) for row, score in zip(labels.rows, scores, strict=True))
    data = {
        "files": {Path(s).name: file_sha256(Path(s))[:16] if Path(s).is_file() else "" for s in sources},
        "split": split or "all rows",
        "rows": digest([[r.where.rpartition("/")[2], r.completion.example.id, r.positive] for r in labels.rows]),
        "n": len(rows),
        "left_out": dict(labels.left_out),
    }
    return Assessed(spec, grader, asked, rising, rows, data)


def good_end(name: str) -> str:
    """Which end of a registered grader is the good one, without loading any model; "" where only the made grader would know."""
    found = registry.find("grader", name)
    return str(getattr(found, "better", ENDS.get(name, "" if isfunction(found) and not signature(found).parameters else "high")))


def shipped_card(name: str, suffix: str) -> Path | None:
    """The card that ships with a grader (`.md` or `.json`), or None."""
    places = [
        files(package) / "data" / place
        for package in ("temper.graders", "temper.models")
        for place in (f"{name}/card{suffix}", f"{name}_card{suffix}")
    ]
    return next((Path(str(place)) for place in places if place.is_file()), None)


def card_page(name: str) -> str:
    """The shipped card as text. Raises `UnknownName` for a name nobody has, `DataError` for a grader without a card."""
    found = shipped_card(name, ".md")
    if found is None:
        if not name.startswith(tuple(catalog.FORMS)):
            registry.find("grader", name)
        raise DataError(f"grader {name!r} ships no card; measure it: temper graders card {name} --labels FILE")
    return found.read_text(encoding="utf-8")


def make_card(found: Assessed) -> dict[str, Any]:
    """The card of what was assessed; facts and limits of the shipped one are kept."""
    shipped = shipped_card(found.grader.name, ".json") if found.spec == found.grader.name else None
    known = read_json(shipped) if shipped else {}
    left = "; ".join(f"{n} rows left out: {why}" for why, n in found.data["left_out"].items())
    facts = {
        "name": found.grader.name,
        "identity": found.grader.identity,
        "weights": found.grader.weights,
        "better": found.grader.better,
        "target": found.target.name,
        "data": found.data,
        "measured": f"Measured on {', '.join(found.data['files'])} (split: {found.data['split']})",
        "reads": f"{found.positive()}{f' {left}.' if left else ''}",
    }
    return card.make(found.rows, facts, known)


def write_card(folder: Path, made: Mapping[str, Any]) -> None:
    """`card.json` and `card.md` in a folder."""
    write_json(folder / "card.json", made)
    write_text(folder / "card.md", card.page(made))


def make_calibration(found: Assessed, *, method: Method, criterion: Criterion, by: Sequence[By], seed: int = 0) -> Calibration:
    """Fit and judge a calibration. Raises `DataError` where rows of another split than train would be fitted on, or too few."""
    curve, threshold, figures = calibrate.calibrate(found.rows, method=method, criterion=criterion, by=by, seed=seed)
    return Calibration(
        grader=found.spec,
        identity=found.grader.identity,
        weights=found.grader.weights,
        target=found.target.name,
        rising=found.rising,
        curve=curve,
        threshold=threshold,
        criterion=str(criterion),
        figures=figures,
        data=found.data,
    )


def abstentions(rows: Sequence[Judged]) -> dict[str, int]:
    """How many rows were not graded, by reason."""
    return dict(Counter(r.why or "no reason given" for r in rows if r.value is None))


def _graded(grader: Named, rows: Sequence[Labelled]) -> list[Score]:
    return grade(grader, [row.completion for row in rows])


def _judged(row: Labelled, score: Score, rising: bool) -> Judged:
    value, flagged = card.toward(score, rising=rising)
    example = row.completion.example
    return Judged(
        value=value,
        flagged=flagged,
        positive=row.positive,
        group=example.group,
        words=len(_text(row.completion).split()),
        source=example.source,
        language=example.language,
        arm=row.arm,
        weight=row.weight,
        why=score.why,
    )


def _text(completion: Completion) -> str:
    """What a length-only judge would count: the reply, or the prompt where there is none."""
    return f"{completion.reasoning} {completion.answer}".strip() or completion.example.prompt
