"""The reward code in a small world where hacks pay: rules alone are hacked, the adaptive reward is not, its ratchet holds."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

from arc_world import COMPLY, HACKS, KINDS, Outcome, World, run

from temper.rewards.adapt import Arc

ARC = Arc(auditor="auditor", labels=400, upfront=150, sensitivity=0.95, specificity=0.95)
FULL = World(ARC, tuple(HACKS), steps=100)
SEEDS = range(3)


@cache
def full(seed: int) -> Outcome:
    return run(FULL, seed)


def test_rules_and_helpfulness_alone_are_broken_out_of_in_most_seeds() -> None:
    assert sum(run(World(steps=150), seed).broke for seed in range(6)) >= 3


def test_the_whole_adaptive_reward_is_not_broken_out_of_and_stays_useful() -> None:
    outcomes = [full(seed) for seed in SEEDS]
    assert not any(o.broke for o in outcomes)
    assert max(o.unsafe[-1] for o in outcomes) < 0.05
    assert max(o.useless[-1] for o in outcomes) < 0.1


def test_no_weight_is_ever_below_the_stated_one_and_none_falls_while_the_other_side_is_well() -> None:
    states = [s for seed in SEEDS for s in full(seed).states]
    assert all(m >= 1.0 for s in states for m in s.multipliers.values())
    for seed in SEEDS:
        falls = [c for c in full(seed).changes if c.kind == "multiplier changed" and c.data["to"] < c.data["from"]]
        assert all(c.data["opposing"] > ARC.target("benign" if c.subject == "harmful" else "harmful") for c in falls)
        mu = [dict(s.penalties) for s in full(seed).states]
        assert all(after[h] >= before[h] for before, after in pairwise(mu) for h in after)


def test_without_the_ratchet_weights_and_penalties_fall_when_nothing_bad_is_seen() -> None:
    last = run(replace(FULL, arc=replace(ARC, ratchet=False)), 0).states[-1]
    assert min(last.multipliers.values()) < 0.8
    assert max(last.penalties.values()) < 0.5


def test_an_auditor_blind_to_a_language_relaxes_nothing() -> None:
    """Whatever is said in the other language looks safe to the auditor, and so to all that learns from it."""
    blind = replace(FULL, label=lambda c, k: 0.0 if KINDS[k][4] else float(c == 0 and KINDS[k][2] == COMPLY))
    found = run(blind, 1)
    assert all(m >= 1.0 for s in found.states for m in s.multipliers.values())
    assert all(mu >= 1.0 for s in found.states for mu in s.penalties.values())
    assert found.hacks["language-switch"] < 0.3  # the detector's penalty holds where labels see nothing
