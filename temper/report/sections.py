"""The sections that analyses of a proof add to the report, in the order in which they are read."""

from collections.abc import Callable, Sequence

from temper.report import comparison, generalisation
from temper.report.blocks import Section
from temper.report.read import Run

SECTIONS: Sequence[Callable[[Run], Section | None]] = (comparison.section, generalisation.section)
"""Each from a run to its section, None where the run has nothing to tell about it."""
