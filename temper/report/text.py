"""Numbers and hostile strings made readable: the one place where the report turns a value into text."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MISSING = "not recorded"
MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


def percent(x: float | None, digits: int = 1) -> str:
    return "–" if x is None else f"{_signed(100 * x, digits, plus=False)}{NBSP}%"


def points(x: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points, always with its sign."""
    return "–" if x is None else _signed(100 * x, digits)


def decimal(x: float | None, digits: int = 2) -> str:
    return "–" if x is None else _signed(x, digits, plus=False)


def change(x: float | None, unit: str) -> str:
    """A difference with its sign: points for shares, one decimal for tokens, three for scores in [0, 1]."""
    if unit in ("share", "difference"):
        return points(x)
    return "–" if x is None else _signed(x, 1 if unit == "tokens" else 3)


def pvalue(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(n: float | None) -> str:
    return MISSING if n is None else f"{round(n):,}"


def times(n: int | None) -> str:
    return MISSING if n is None else {0: "never", 1: "once"}.get(n, f"{n} times")


def scaled(x: float | None, unit: str) -> str:
    """A large quantity with an SI prefix, in three digits: 9.70e13 FLOP -> 97.0 TFLOP."""
    if x is None:
        return MISSING
    x = float(f"{x:.3g}")
    power = min(6, max(0, int(math.log10(x) // 3))) if x >= 1 else 0
    return f"{x / 1000**power:.3g}{NBSP}{['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}{unit}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def moment(at: object) -> str:
    """A time stamp (seconds since the epoch, or text) as UTC to the minute."""
    if isinstance(at, int | float):
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(at) if at else MISSING


def with_interval(estimate: Mapping[str, Any] | None, unit: str = "share") -> tuple[str, str]:
    """A value and its 95 % interval as two strings, in the unit's own form."""
    if not estimate or estimate.get("value") is None:
        return "–", ""
    show = {"share": percent, "difference": points, "tokens": _tokens}.get(unit, decimal)
    return show(estimate["value"]), span(estimate.get("low"), estimate.get("high"), unit)


def ends(measured: Mapping[str, Any]) -> str:
    """How many of a rate's replies closed their thought, and how many the token cap cut; empty where nobody counted."""
    known = [(name, measured.get(name)) for name in ("closed", "cut")]
    return ", ".join(f"{name} {percent(share, 0)}" for name, share in known if share is not None)


def span(low: float | None, high: float | None, unit: str = "share") -> str:
    """Two bounds as `low to high` without repeating the unit; empty where one is unbounded."""
    if low is None or high is None:
        return ""
    scale, digits = {"share": (100, 1), "difference": (100, 1), "tokens": (1, 0)}.get(unit, (1, 2))
    return (
        f"{_signed(scale * low, digits, plus=unit == 'difference')} to {_signed(scale * high, digits, plus=unit == 'difference')}"
    )


def unseen(found: Mapping[str, Any], unit: str = "difference") -> str:
    """What a difference that is not distinguishable from none could have shown, with 80 % power; empty for one that is."""
    low, high, mde = (found.get(key) for key in ("low", "high", "mde"))
    if mde is None or low is None or high is None or low > 0 or high < 0:
        return ""
    return f"; smallest detectable {change(mde, unit).lstrip('+')}"


def _tokens(x: float | None) -> str:
    return decimal(x, 0)


def _signed(x: float, digits: int, *, plus: bool = True) -> str:
    rounded = round(x, digits) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:{'+' if plus and rounded else ''}.{digits}f}".replace("-", MINUS)
