"""How often tests and gates are wrong where nothing changed: simulated proofs under the null, ours beside the naive way.

    python bench/nulls.py [--runs 2000] [--seed 0]

Each case draws proofs in which both arms (or both gaps) have the same rate, and counts how often each method claims a change at
5 %. `peer` ignores what the case is about: clusters, samples of one prompt, the family of tests, the judge's errors of each arm.
The Monte-Carlo error of a size of 5 % from 2,000 runs is 0.5 points.
"""

import argparse
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from record import Case, record
from scipy.stats import ttest_rel

from temper import judge_error, stats
from temper.judge_error import Audited
from temper.prove.evidence import Evidence
from temper.prove.gate import Policy, Rule, Verdict, decide

ALPHA = 0.05
DRAWS = 1_000
RATE = 0.35
Floats = np.ndarray
Simulation = Callable[[np.random.Generator], tuple[bool, bool]]


def main() -> None:
    """Simulate every case and write its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    record("nulls", [case(name, asked.runs, asked.seed) for name in CASES], level=ALPHA)


def case(name: str, runs: int, seed: int) -> Case:
    """One row: the share of runs in which ours and the naive method claim a change that is not there."""
    simulation, peer = CASES[name]
    rng = np.random.default_rng(seed)
    ours, naive = np.mean([simulation(rng) for _ in range(runs)], axis=0)
    error = math.sqrt(ALPHA * (1 - ALPHA) / runs)
    return Case(
        case=name,
        ours=float(ours),
        peer=float(naive),
        peer_name=peer,
        unit="share of null runs",
        ratio=float(naive / ours) if ours else math.inf,
        pairs=runs,
        check={"level": ALPHA, "monte_carlo_error": error},
    )


def answers(
    rng: np.random.Generator, prompts: int, group: int = 1, samples: int = 1, rise: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """Two arms, the second's rate higher by `rise`: shape (prompts, samples) each, and group ids, which share what changes."""
    ids = np.arange(prompts) // group
    ease = rng.normal(size=ids[-1] + 1)[ids]
    arms = []
    for rate in (RATE, RATE + rise):
        moved = (ease + rng.normal(size=ids[-1] + 1)[ids])[:, None] + rng.normal(size=(prompts, samples))
        arms.append((moved / math.sqrt(3) > NormalDist().inv_cdf(1 - rate)).astype(float))
    return arms[0], arms[1], ids


def excludes_zero(found: stats.Estimate) -> bool:
    return found.low > 0 or found.high < 0


def interval(prompts: int, group: int, samples: int = 1) -> Simulation:
    """Our clustered interval of the paired difference; the naive one takes every answer for a prompt of its own."""

    def simulate(rng: np.random.Generator) -> tuple[bool, bool]:
        a, b, ids = answers(rng, prompts, group, samples)
        ours = stats.paired_difference(a.mean(1), b.mean(1), ids, draws=DRAWS, seed=int(rng.integers(1 << 30)))
        return excludes_zero(ours), bool(ttest_rel(a.ravel(), b.ravel()).pvalue < ALPHA)

    return simulate


def flips(rng: np.random.Generator) -> tuple[bool, bool]:
    """Sign flips of whole groups, against McNemar's test that takes prompts for independent."""
    a, b, ids = answers(rng, 200, 5)
    change = (a - b)[:, 0]
    ours = stats.sign_flip(change, ids, draws=DRAWS, seed=int(rng.integers(1 << 30)))
    naive = stats.mcnemar(int((change < 0).sum()), int((change > 0).sum()))
    return ours < ALPHA, naive.mid_p < ALPHA


def mcnemar(rng: np.random.Generator) -> tuple[bool, bool]:
    """The exact test, which may only be too careful, and its mid-p twin."""
    b, c, _ = rng.multinomial(400, (0.1, 0.1, 0.8))
    found = stats.mcnemar(int(b), int(c))
    return found.p < ALPHA, found.mid_p < ALPHA


def family(rng: np.random.Generator) -> tuple[bool, bool]:
    """Any claim among twelve true nulls (two metrics, four arms), with Holm and without."""
    drawn = [answers(rng, 100) for _ in range(12)]
    ps = [stats.sign_flip((a - b)[:, 0], draws=DRAWS, seed=i) for i, (a, b, _) in enumerate(drawn)]
    return min(stats.holm(ps)) < ALPHA, min(ps) < ALPHA


def gaps(rng: np.random.Generator) -> tuple[bool, bool]:
    """A difference in differences over shared groups; the naive one compares four independent rates."""
    a, b, ids = answers(rng, 240, 4)
    away = ids % 2 == 0
    values = np.concatenate([a[:, 0], b[:, 0]])
    cells = [*((0, x) for x in away), *((1, x) for x in away)]
    weights = {(0, True): 1.0, (0, False): -1.0, (1, True): -1.0, (1, False): 1.0}
    seed = int(rng.integers(1 << 30))
    ours = stats.linear_contrast(values, cells, weights, np.concatenate([ids, ids]), draws=DRAWS, seed=seed)
    naive = stats.linear_contrast(values, cells, weights, draws=DRAWS, seed=seed)
    return excludes_zero(ours), excludes_zero(naive)


def seeds(rng: np.random.Generator) -> tuple[bool, bool]:
    """Eight training seeds whose effect is zero on average; the naive interval takes all their answers for one run's."""
    number, prompts = 8, 60
    effect, ease = rng.normal(0, 0.1, number)[:, None], rng.normal(0, 0.2, prompts)[None, :]
    values = effect + ease + rng.normal(0, 0.4, (number, prompts))
    rows, columns = np.repeat(np.arange(number), prompts), np.tile(np.arange(prompts), number)
    ours = stats.hierarchical(values.ravel(), rows, columns, draws=DRAWS, seed=int(rng.integers(1 << 30)))
    naive = stats.mean(values.ravel(), columns, draws=DRAWS, seed=int(rng.integers(1 << 30)))
    return excludes_zero(ours), excludes_zero(naive)


def judged(rng: np.random.Generator) -> tuple[bool, bool]:
    """Equal true rates, and a judge that finds 95 % of the first arm's unsafe answers and 70 % of the second's."""
    n, labelled = 300, 80
    ease = rng.normal(size=n)
    arms, seen = [], []
    for sensitivity in (0.95, 0.70):
        truth = (ease + rng.normal(size=n) > 0.4).astype(float)
        flag = np.where(truth == 1, rng.random(n) < sensitivity, rng.random(n) < 0.03).astype(float)
        labels = np.full(n, np.nan)
        chosen = rng.choice(n, labelled, replace=False)
        labels[chosen] = truth[chosen]
        arms.append(Audited(flag, labels, np.full(n, labelled / n), np.zeros(n), np.arange(n)))
        seen.append(flag)
    ours = judge_error.powered_difference(*arms).estimate
    return excludes_zero(ours), excludes_zero(stats.paired_difference(seen[0], seen[1], draws=DRAWS))


def gate(rng: np.random.Generator) -> tuple[bool, bool]:
    """A rise exactly at the limit, in groups of four: a pass is wrong. The naive gate compares the number with the limit."""
    base, arm, ids = answers(rng, 200, 4, rise=0.05)
    rows = {
        name: [_row(i, g, v) for i, (g, v) in enumerate(zip(ids, x[:, 0], strict=True))] for name, x in (("a", base), ("b", arm))
    }
    check = decide(Policy((Rule("unsafe", max_rise=0.05),)), Evidence(rows)).checks[0]
    return check.verdict == Verdict.PASS, float((arm - base).mean()) <= 0.05


def _row(number: int, group: int, unsafe: float) -> dict[str, object]:
    scores = {"gold": {"value": unsafe}}
    named = {
        "suite": "harm",
        "id": str(number),
        "sample": 0,
        "group": str(group),
        "class": "harmful",
        "category": "",
        "language": "en",
    }
    return {**named, "outcome": "answered", "scores": scores}


CASES: dict[str, tuple[Simulation, str]] = {
    "paired interval, 200 prompts": (interval(200, 1), "t test of answers"),
    "paired interval, 40 groups of 5": (interval(200, 5), "t test of answers"),
    "paired interval, 10 groups of 8": (interval(80, 8), "t test of answers"),
    "paired interval, 100 prompts of 4 samples": (interval(100, 1, 4), "t test of answers"),
    "sign flips, 40 groups of 5": (flips, "McNemar, mid-p"),
    "McNemar, exact": (mcnemar, "McNemar, mid-p"),
    "Holm over 12 metrics and arms": (family, "no correction"),
    "difference in differences, 60 groups": (gaps, "independent rates"),
    "8 training seeds": (seeds, "one bootstrap of prompts"),
    "a judge that errs more on one arm, corrected": (judged, "the judge as it is"),
    "gate, a rise exactly at its limit (2.5 % wanted)": (gate, "the number against the limit"),
}


if __name__ == "__main__":
    main()
