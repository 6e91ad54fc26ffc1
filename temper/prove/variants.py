"""What rewrites and attacks make of suites, and the samplers that carry an attack out. The one place that wires the two in."""

from collections.abc import Sequence

from temper.prove import rewrite
from temper.prove.attack.apply import attacked_all, attacking
from temper.prove.conversation import conversing
from temper.prove.evaluate import Panel
from temper.prove.evidence import ATTACK
from temper.prove.prefill import prefilling
from temper.types import Completion, Example, Sampler, Suite


def variants(
    suites: Sequence[Suite], *, rewrites: Sequence[str] = (), attacks: Sequence[str] = (), grid: int = 0, seed: int = 0
) -> list[Suite]:
    """The rewritten and the attacked suites, besides the plain ones; `grid` cells of a fractional design of rewrites."""
    specs = rewrite.cells(rewrites, grid, seed)
    rewritten = [rewrite.rewritten(suite, spec) for suite in suites for spec in specs]
    return [*rewritten, *attacked_all(suites, attacks)]


def through(suite: Suite, sampler: Sampler, panel: Panel, *, attacker: str = "", seed: int = 0) -> Sampler:
    """The sampler, with the suite's attack before it where that needs turns or several tries; `attacker` writes its prompts."""
    sampler = prefilling(conversing(sampler, suite.examples), suite.examples)
    for how in suite.how:
        if how.startswith(ATTACK):
            sampler = attacking(sampler, how.removeprefix(ATTACK), panel=panel, attacker=attacker, seed=seed)
    return sampler


def check_attacks(suites: Sequence[Suite], panel: Panel, *, attacker: str = "", seed: int = 0) -> None:
    """Make every suite's sampler over one that is never asked, so that a wrong attack costs no answer.

    Raises `UsageError` for an option or an attacker that is none, `ProofError` for a steering judge that is gold, shares a model
    or rule with it, or is not on the panel.
    """
    for suite in suites:
        through(suite, _never, panel, attacker=attacker, seed=seed)


def _never(examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
    raise AssertionError(f"asked {len(examples)} prompts while attacks were only being checked")
