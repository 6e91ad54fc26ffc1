"""Every analysis of a proof, by its key in summary.json: from all rows of all arms to JSON, or None with nothing to tell."""

from collections.abc import Callable, Mapping
from typing import Any

from temper.prove import cost, published
from temper.prove.attacks import attacks
from temper.prove.breakdown import breakdown
from temper.prove.evidence import Evidence
from temper.prove.turns import turns

Analysis = Callable[[Evidence], dict[str, Any] | None]

ANALYSES: Mapping[str, Analysis] = {
    "breakdown": breakdown,
    "suites": published.analyse,
    "attacks": attacks,
    "turns": turns,
    "cost": cost.analyse,
}
