"""Every analysis of a proof, by its key in summary.json: from all rows of all arms to JSON, or None with nothing to tell."""

from collections.abc import Callable, Mapping
from typing import Any

from temper.prove import sensitivity, variability
from temper.prove.evidence import Evidence

Analysis = Callable[[Evidence], dict[str, Any] | None]

ANALYSES: Mapping[str, Analysis] = {"sensitivity": sensitivity.analyse, "variability": variability.analyse}
