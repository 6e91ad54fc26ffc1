"""The sections that analyses of a proof add to the report, in the order in which they are read."""

from collections.abc import Callable, Sequence

from temper.report import breakdown, price, suites
from temper.report.blocks import Section
from temper.report.read import Run

Make = Callable[[Run], Section | None]
"""From a run to a section, None where the run has nothing to tell about it."""

OPENING: Sequence[Make] = ()
"""Those that stand before the headline."""

SECTIONS: Sequence[Make] = (
    breakdown.suites,
    breakdown.categories,
    breakdown.languages,
    suites.section,
    breakdown.proxy,
    price.section,
)
"""Those that stand after the comparisons."""
