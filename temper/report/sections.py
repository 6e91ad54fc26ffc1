"""The sections that analyses of a proof add to the report, in the order in which they are read."""

from collections.abc import Callable, Sequence

from temper.report import (
    breakdown,
    comparison,
    context,
    generalisation,
    guard,
    mixing,
    price,
    sensitivity,
    signatures,
    suites,
    traces,
    variability,
    verbosity,
)
from temper.report.attacks import attacks
from temper.report.blocks import Section
from temper.report.read import Run
from temper.report.turns import turns

Make = Callable[[Run], Section | None]
"""From a run to a section, None where the run has nothing to tell about it."""

OPENING: Sequence[Make] = (comparison.section, signatures.section)
"""Those that stand before the headline."""

SECTIONS: Sequence[Make] = (
    guard.section,
    suites.section,
    breakdown.suites,
    breakdown.categories,
    breakdown.languages,
    traces.section,
    attacks,
    turns,
    context.context,
    context.agentic,
    sensitivity.section,
    variability.section,
    generalisation.section,
    mixing.section,
    verbosity.section,
    breakdown.proxy,
    price.section,
    signatures.figures,
)
"""Those that stand after the comparisons."""
