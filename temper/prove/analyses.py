"""Every analysis of a proof, by its key in summary.json: from all rows of all arms to JSON, or None with nothing to tell."""

from collections.abc import Callable, Mapping
from typing import Any

from temper.prove.evidence import Evidence
from temper.prove.generalise import generalisation

Analysis = Callable[[Evidence], dict[str, Any] | None]

ANALYSES: Mapping[str, Analysis] = {"generalisation": generalisation}
