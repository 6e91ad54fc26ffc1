"""Every analysis of a proof, by its key in summary.json: from all rows of all arms to JSON, or None with nothing to tell."""

from collections.abc import Callable, Mapping
from typing import Any

from temper.prove import cost, published, sensitivity, variability
from temper.prove.agentic import agentic
from temper.prove.attacks import attacks
from temper.prove.breakdown import breakdown
from temper.prove.context import context
from temper.prove.evidence import Evidence
from temper.prove.generalise import generalisation
from temper.prove.guard import guard
from temper.prove.mixing import mixing
from temper.prove.traces import traces
from temper.prove.turns import turns
from temper.prove.verbosity import verbosity

Analysis = Callable[[Evidence], dict[str, Any] | None]

ANALYSES: Mapping[str, Analysis] = {
    "guard": guard,
    "breakdown": breakdown,
    "suites": published.analyse,
    "attacks": attacks,
    "turns": turns,
    "sensitivity": sensitivity.analyse,
    "variability": variability.analyse,
    "generalisation": generalisation,
    "traces": traces,
    "verbosity": verbosity,
    "mixing": mixing,
    "context": context,
    "agentic": agentic,
    "cost": cost.analyse,
}
