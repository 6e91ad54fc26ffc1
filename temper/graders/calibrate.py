"""A grader made honest on labels: its value becomes a probability, its threshold is chosen, and both are judged out of sample.

Isotonic regression (Zadrozny and Elkan 2002) or Platt scaling (Platt 1999), cross-fitted by group: every figure is of rows whose
group neither the curve nor the threshold saw. Leaves out where labels come from and what is done with the figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from temper import judge_error
from temper.errors import DataError, UsageError
from temper.files import read_json, write_json
from temper.graders.card import Judged
from temper.graders.checked import opinions
from temper.judge_error import Errors, Rate
from temper.types import Better, Completion, Grader, Score

Floats = NDArray[np.float64]
Method = Literal["isotonic", "platt"]
By = Literal["arm", "language", "source"]

FOLDS = 5
LEAST = 10  # labelled rows of either kind below which nothing is fitted
EDGE = 1e-6
VERSION = 1


@dataclass(frozen=True, slots=True)
class Curve:
    """A rising map from a grader's value to P(yes): knots of a line, or slope and offset on the logit scale.

    Answers stay `edge` away from 0 and 1, which is 1/(n+2): no share of n rows proves a certainty.
    """

    method: Method
    x: tuple[float, ...]
    y: tuple[float, ...] = ()
    edge: float = EDGE

    def __call__(self, values: Sequence[float] | Floats) -> Floats:
        v = np.asarray(values, dtype=np.float64)
        p = np.interp(v, self.x, self.y) if self.method == "isotonic" else _sigmoid(self.x[0] * _logit(v) + self.x[1])
        return np.clip(p, self.edge, 1 - self.edge)


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a threshold is chosen for: the most sensitivity + specificity, or the most of the other one above a floor."""

    of: Literal["youden", "sensitivity", "specificity"] = "youden"
    floor: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Criterion":
        """`youden`, `sensitivity=0.9` or `specificity=0.95`. Raises `UsageError`."""
        of, _, floor = text.partition("=")
        try:
            value = float(floor) if floor else 0.0
        except ValueError:
            value = math.nan
        if of == "youden" and not floor:
            return cls()
        if of in ("sensitivity", "specificity") and 0 < value < 1:
            return cls("sensitivity" if of == "sensitivity" else "specificity", value)
        raise UsageError(f"threshold {text!r} is not known; wanted youden, sensitivity=0.9 or specificity=0.95")

    def __str__(self) -> str:
        return "youden" if self.of == "youden" else f"{self.of}={self.floor:g}"


def fit(values: Floats, labels: Floats, weights: Floats, method: Method) -> Curve:
    """The curve of some rows."""
    found = _isotonic(values, labels, weights) if method == "isotonic" else _platt(values, labels, weights)
    return replace(found, edge=1 / (len(values) + 2))


def threshold(p: Floats, labels: Floats, weights: Floats, criterion: Criterion) -> float:
    """The least probability that is called a yes, halfway to the next lower one seen. Raises `DataError` if no floor is met."""
    order = np.argsort(p, kind="stable")
    p, hit, free = p[order], (weights * labels)[order], (weights * (1 - labels))[order]
    starts = np.flatnonzero(np.diff(p, prepend=-np.inf) > 0)
    sensitivity = (1 - np.concatenate([[0.0], np.cumsum(hit)])[starts] / hit.sum()).round(12)
    specificity = (np.concatenate([[0.0], np.cumsum(free)])[starts] / free.sum()).round(12)
    kept, sought = {
        "youden": (np.ones(len(starts), dtype=bool), sensitivity + specificity),
        "sensitivity": (sensitivity >= criterion.floor, specificity),
        "specificity": (specificity >= criterion.floor, sensitivity),
    }[criterion.of]
    if not kept.any():
        raise DataError(f"no threshold has {criterion}: the highest {criterion.of} is {specificity.max():.2f}; lower the floor")
    best = starts[int(np.argmax(np.where(kept, sought, -np.inf)))]
    return float((p[best] + p[best - 1]) / 2) if best else float(p[0])


def cross_fitted(
    rows: Sequence[Judged], method: Method, criterion: Criterion, *, folds: int = FOLDS, seed: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Each row's probability and flag by a curve and a threshold of the other folds; groups stay whole. Shapes (N,), (N,)."""
    values, labels, weights = _arrays(rows)
    fold = _folds([r.group for r in rows], labels, folds, seed)
    p, flags = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool)
    for k in range(int(fold.max()) + 1):
        held, rest = fold == k, fold != k
        if len(set(labels[rest])) < 2:
            raise DataError("one label stands in too few groups to hold any out; label rows of other prompts")
        curve = fit(values[rest], labels[rest], weights[rest], method)
        p[held] = curve(values[held])
        flags[held] = p[held] >= threshold(curve(values[rest]), labels[rest], weights[rest], criterion)
    return p, flags


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted, for which grader, on what, and how well it does: the content of a calibration file.

    `figures` holds, for all rows and by arm, language or source, sensitivity and specificity `shipped` (the grader's own
    threshold) and `calibrated` (out of sample). `rising` says whether the grader's value grows with the label's yes.
    """

    grader: str
    identity: str
    weights: str
    target: str
    rising: bool
    curve: Curve
    threshold: float
    criterion: str
    figures: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def limit(self) -> float:
        return limit(self.threshold, rising=self.rising)

    def mapped(self, values: Sequence[float]) -> list[float]:
        return through(self.curve, values, rising=self.rising)

    def errors(self, at: Literal["shipped", "calibrated"] = "shipped", *, arm: str | None = None) -> Errors:
        """Sensitivity and specificity of all rows, or of one arm's. Raises `DataError` for an arm without labels."""
        found = self.figures["all"] if arm is None else self.figures["by"].get("arm", {}).get(arm)
        if found is None:
            raise DataError(f"the calibration of {self.grader!r} has no labels of arm {arm!r}; calibrate with --by arm")
        return Errors(*(_rate(found[at][name]) for name in ("sensitivity", "specificity")))


def calibrate(
    rows: Sequence[Judged],
    *,
    method: Method = "isotonic",
    criterion: Criterion = Criterion(),  # frozen
    by: Sequence[By] = (),
    seed: int = 0,
) -> tuple[Curve, float, dict[str, Any]]:
    """Curve and threshold of all graded rows, and cross-fitted figures. Raises `DataError` where there is too little to fit."""
    graded = [r for r in rows if r.value is not None]
    _enough(graded)
    values, labels, weights = _arrays(graded)
    curve = fit(values, labels, weights, method)
    p, flags = cross_fitted(graded, method, criterion, seed=seed)

    def of(chosen: Sequence[int]) -> dict[str, Any]:
        mine, groups = [graded[i] for i in chosen], [graded[i].group for i in chosen]
        shipped = judge_error.errors([r.flagged for r in mine], labels[chosen], weights[chosen], groups)
        calibrated = judge_error.errors(flags[chosen], labels[chosen], weights[chosen], groups)
        return {
            "n": len(mine),
            "positive": sum(r.positive for r in mine),
            "groups": len(set(groups)),
            "shipped": _told(shipped),
            "calibrated": _told(calibrated),
        }

    figures: dict[str, Any] = {"all": of(range(len(graded))), "abstained": len(rows) - len(graded), "by": {}}
    figures["all"] |= {"brier": _brier(values, p, labels, weights)}
    for axis in by:
        names = sorted({getattr(r, axis) for r in graded})
        figures["by"][axis] = {n: of([i for i, r in enumerate(graded) if getattr(r, axis) == n]) for n in names}
    return curve, threshold(curve(values), labels, weights, criterion), figures


def write(path: Path, calibration: Calibration) -> None:
    """Write a calibration file."""
    plain = {name: getattr(calibration, name) for name in Calibration.__dataclass_fields__ if name != "curve"}
    write_json(path, {"version": VERSION, **plain, "curve": asdict(calibration.curve)})


def read(path: Path) -> Calibration:
    """Read a calibration file. Raises `StorageError` for a damaged file, `DataError` for one that is no calibration."""
    held = read_json(path)
    try:
        if held["version"] != VERSION:
            raise DataError(f"{path}: a calibration of version {held['version']!r}; wanted {VERSION}: calibrate again")
        if str(held["grader"]).startswith("calibrated:"):
            raise DataError(f"{path}: a calibration of a calibration; calibrate the grader itself")
        line = held["curve"]
        curve = Curve(line["method"], tuple(map(float, line["x"])), tuple(map(float, line["y"])), float(line["edge"]))
        fields = [name for name in Calibration.__dataclass_fields__ if name != "curve"]
        return Calibration(curve=curve, **{name: held[name] for name in fields})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a calibration file ({error!r}); wanted what `temper graders calibrate` writes") from None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Any grader with its values mapped through a curve; `parts` holds the chosen threshold. Abstains where the grader does.

    The good end stays where it was: a value that falls with the label's yes is turned, mapped and turned back.
    """

    grader: Grader
    curve: Curve
    threshold: float
    rising: bool = True

    @property
    def better(self) -> Better:
        end: Better = getattr(self.grader, "better", "high")
        return end

    @property
    def scope(self) -> str | None:
        return getattr(self.grader, "scope", None)

    @property
    def slow(self) -> bool:
        return getattr(self.grader, "slow", False)

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        scores = opinions(self.grader, completions)
        graded = [i for i, score in enumerate(scores) if score.value is not None]
        mapped = dict(zip(graded, through(self.curve, [scores[i].value or 0.0 for i in graded], rising=self.rising), strict=True))
        return [self._score(score, mapped[i]) if i in mapped else score for i, score in enumerate(scores)]

    def _score(self, score: Score, value: float) -> Score:
        return Score(
            value, score.why, {**score.parts, "raw": score.value, "threshold": limit(self.threshold, rising=self.rising)}
        )


def through(curve: Curve, values: Sequence[float], *, rising: bool) -> list[float]:
    """A grader's values through a curve; one that falls with the label's yes is turned, mapped and turned back."""
    x = np.asarray(values, dtype=np.float64)
    p = curve(x) if rising else 1 - curve(1 - x)
    return [float(v) for v in p]


def limit(threshold: float, *, rising: bool) -> float:
    """The threshold on the grader's own scale: a falling value is a no at its limit or above, so it lies just above a yes."""
    return threshold if rising else math.nextafter(1 - threshold, 2.0)


def applied(calibration: Calibration, grader: Grader, identity: str, where: Path) -> Calibrated:
    """The grader with its calibration. Raises `DataError` if the file was made for another version of it."""
    if identity != calibration.identity:
        raise DataError(
            f"{where}: made for {calibration.grader!r} as it was (identity {calibration.identity}), which is now {identity}; "
            f"run `temper graders calibrate {calibration.grader}` again"
        )
    return Calibrated(grader, calibration.curve, calibration.threshold, calibration.rising)


def _isotonic(values: Floats, labels: Floats, weights: Floats) -> Curve:
    from scipy.optimize import isotonic_regression

    x, inverse = np.unique(values, return_inverse=True)
    mass = np.bincount(inverse, weights=weights)
    found = isotonic_regression(np.bincount(inverse, weights=weights * labels) / mass, weights=mass)
    starts = np.asarray(found.blocks[:-1])
    ends = np.asarray(found.blocks[1:]) - 1
    knots = np.unique(np.concatenate([starts, ends]))
    return Curve("isotonic", tuple(x[knots].tolist()), tuple(np.asarray(found.x)[knots].tolist()))


def _platt(values: Floats, labels: Floats, weights: Floats, steps: int = 100) -> Curve:
    """Newton's method on the weighted log loss with Platt's smoothed targets; a slope below 0 is held at 0."""
    x = np.stack([_logit(values), np.ones_like(values)], 1)
    hits, free = labels.sum(), (1 - labels).sum()
    wanted = np.where(labels == 1, (hits + 1) / (hits + 2), 1 / (free + 2))
    w = np.array([1.0, 0.0])
    for _ in range(steps):
        p = _sigmoid(x @ w)
        gradient = x.T @ (weights * (p - wanted)) + EDGE * w
        hessian = (x * (weights * p * (1 - p))[:, None]).T @ x + EDGE * np.eye(2)
        move = np.linalg.solve(hessian, gradient)
        w = w - move / max(1.0, float(np.abs(move).max()))
        if float(np.abs(move).max()) < 1e-10:
            break
    if w[0] < 0:
        share = float(weights @ wanted / weights.sum())
        return Curve("platt", (0.0, math.log(share / (1 - share))))
    return Curve("platt", (float(w[0]), float(w[1])))


def _folds(groups: Sequence[str], labels: Floats, folds: int, seed: int) -> NDArray[np.intp]:
    """Row -> fold: groups are shuffled and dealt, those with a yes first, so that every fold holds both."""
    mixed: dict[str, bool] = {}
    for group, label in zip(groups, labels, strict=True):
        mixed[group] = mixed.get(group, False) or bool(label)
    names = sorted(mixed)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    dealt = {name: n % folds for n, name in enumerate(sorted(order, key=lambda name: not mixed[name]))}
    return np.array([dealt[group] for group in groups], dtype=np.intp)


def _enough(graded: Sequence[Judged]) -> None:
    for kind, positive in (("yes", True), ("no", False)):
        mine = [r for r in graded if r.positive is positive]
        if len(mine) < LEAST or len({r.group for r in mine}) < 2:
            raise DataError(
                f"{len(mine)} graded rows with the label {kind!r} in {len({r.group for r in mine})} groups; wanted at least "
                f"{LEAST} in 2 groups: label more rows, of other prompts"
            )


def _arrays(rows: Sequence[Judged]) -> tuple[Floats, Floats, Floats]:
    columns = np.array([[float(r.value or 0.0), float(r.positive), r.weight] for r in rows], dtype=np.float64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _brier(values: Floats, p: Floats, labels: Floats, weights: Floats) -> dict[str, float]:
    return {name: float(weights @ (q - labels) ** 2 / weights.sum()) for name, q in (("shipped", values), ("calibrated", p))}


def _told(judge: Errors) -> dict[str, Any]:
    rates = {"sensitivity": judge.sensitivity, "specificity": judge.specificity}
    return {
        **{name: {**rate.estimate().as_dict(), "size": rate.size} for name, rate in rates.items()},
        "youden": judge.youden.as_dict(),
        "informative": judge.informative,
    }


def _rate(held: Mapping[str, Any]) -> Rate:
    return Rate(math.nan if held["value"] is None else held["value"], held["n"], held["size"])


def _logit(p: Floats) -> Floats:
    held = np.clip(p, EDGE, 1 - EDGE)
    return np.asarray(np.log(held / (1 - held)))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))
