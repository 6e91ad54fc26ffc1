"""The sections that analyses of a proof add to the report, in the order in which they are read."""

from collections.abc import Callable, Sequence

from temper.report import breakdown, price, suites
from temper.report.attacks import attacks
from temper.report.blocks import Section
from temper.report.read import Run
from temper.report.turns import turns

Make = Callable[[Run], Section | None]
"""From a run to a section, None where the run has nothing to tell about it."""

OPENING: Sequence[Make] = ()
"""Those that stand before the headline."""

SECTIONS: Sequence[Make] = (
    suites.section,
    breakdown.suites,
    breakdown.categories,
    breakdown.languages,
    attacks,
    turns,
    breakdown.proxy,
    price.section,
)
"""Those that stand after the comparisons."""
