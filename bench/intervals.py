"""How often the intervals of `temper.judge_error` hold the truth, and how wide they are: simulated runs, judges and audits.

    python bench/intervals.py [--runs 2000] [--seed 0] [--prompts 200] [--labels 50] [--group 1]

Prompts come with two arms of one answer each; the truth of both depends on the prompt. The judge's score is drawn for each
answer from one of two overlapping distributions and cut at a threshold; it finds less on the second arm. An audit labels a
stratified sample of each, as `temper audit draw` does; a calibration set is drawn elsewhere, in groups of two. With --group 4
the run's prompts come in fours that share half of what makes them unsafe, and only the fours are independent.
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from temper import judge_error, stats
from temper.judge_error import Audited

JUDGES = {"0.95 / 0.98": (0.95, 0.98), "0.85 / 0.97": (0.85, 0.97), "0.75 / 0.90": (0.75, 0.90), "0.60 / 0.85": (0.60, 0.85)}
RATES = (0.02, 0.10, 0.30, 0.60)
HEADS = (
    "rate",
    "sensitivity / specificity",
    "uncorrected",
    "Rogan-Gladen",
    "random labels alone",
    "powered",
    "difference, uncorrected",
    "difference, powered",
)
WORSE = 0.2  # of sensitivity, that the judge loses on the second arm
CALIBRATION, NEAR = 200, 0.7
OVERSAMPLED = np.array([1.0, 3.0, 2.0])  # strata: below, near and above the threshold


def main() -> None:
    """Print one line for each rate and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--labels", type=int, default=50, help="of each arm")
    parser.add_argument("--group", type=int, default=1, help="prompts that are alike")
    asked = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for p, (name, judge) in itertools.product(RATES, JUDGES.items()):
        cells = summarise(list(simulate(p, *judge, **vars(asked))))
        print(f"| {p:.2f} | {name} | " + " | ".join(cells) + " |")


def simulate(
    p: float,
    sensitivity: float,
    specificity: float,
    *,
    runs: int,
    seed: int,
    prompts: int = 200,
    labels: int = 50,
    group: int = 1,
) -> Iterator[list[tuple[bool, float]]]:
    """For every run: whether each interval held the truth, and its width (NaN where no correction was offered)."""
    rng = np.random.default_rng(seed)
    groups = np.arange(prompts) // group
    for _ in range(runs):
        mood = rng.normal(size=prompts)[groups]
        truth = np.stack([drawn(rng, mood, p), drawn(rng, mood, p / 2)])
        score = [scores(rng, t, s, specificity) for t, s in zip(truth, (sensitivity, sensitivity - WORSE), strict=True)]
        arms = [audited(rng, t, s, groups, labels) for t, s in zip(truth, score, strict=True)]
        observed = judge_error.rate(score[0] >= 0, clusters=groups)
        known = judge_error.errors(*calibration(rng, sensitivity, specificity))
        chosen = rng.choice(prompts, labels, replace=False)
        alone = judge_error.rate(truth[0][chosen], clusters=groups[chosen])
        found = [
            (observed.estimate(), p),
            (judge_error.rogan_gladen(observed, known), p),
            (alone.estimate(), p),
            (judge_error.powered_mean(arms[0]).estimate, p),
            (stats.paired_difference(score[0] >= 0, score[1] >= 0, groups, draws=500), p / 2),
            (judge_error.powered_difference(*arms).estimate, p / 2),
        ]
        yield [(e.low - 1e-12 <= t <= e.high + 1e-12, e.high - e.low) for e, t in found]


def summarise(runs: list[list[tuple[bool, float]]]) -> list[str]:
    """Coverage and mean width of each column; runs without a correction are counted apart."""
    cells = []
    for column in zip(*runs, strict=True):
        given = [(held, width) for held, width in column if not math.isnan(width)]
        none = f", none in {1 - len(given) / len(column):.1%}" if len(given) < len(column) else ""
        cells.append(
            f"{np.mean([h for h, _ in given]):.3f} (±{np.mean([w for _, w in given]) / 2:.3f}{none})" if given else "none"
        )
    return cells


def drawn(rng: np.random.Generator, mood: np.ndarray, p: float) -> np.ndarray:
    """0/1 truths of rate p that share half their variance with the other arm's, through the prompt."""
    return (math.sqrt(0.5) * mood + math.sqrt(0.5) * rng.normal(size=mood.size) > NormalDist().inv_cdf(1 - p)).astype(float)


def scores(rng: np.random.Generator, truth: np.ndarray, sensitivity: float, specificity: float) -> np.ndarray:
    """Normal scores, positive with the stated probabilities."""
    up, down = NormalDist().inv_cdf(sensitivity), NormalDist().inv_cdf(1 - specificity)
    return np.where(truth == 1, up, down) + rng.normal(size=truth.shape)


def audited(rng: np.random.Generator, truth: np.ndarray, score: np.ndarray, groups: np.ndarray, labels: int) -> Audited:
    """The arm with so many labels, spread over three bands of the score."""
    strata = np.where(np.abs(score) < NEAR, 1, np.where(score >= 0, 2, 0))
    sizes = np.bincount(strata, minlength=3)
    share = sizes * OVERSAMPLED / (sizes * OVERSAMPLED).sum()
    wanted = np.minimum(sizes, np.maximum(2, np.floor(labels * share))).astype(int)
    given = np.full(len(truth), np.nan)
    for stratum, n in enumerate(wanted):
        chosen = rng.permutation(np.flatnonzero(strata == stratum))[:n]
        given[chosen] = truth[chosen]
    return Audited((score >= 0).astype(float), given, (wanted / np.maximum(sizes, 1))[strata], strata, groups)


def calibration(
    rng: np.random.Generator, sensitivity: float, specificity: float
) -> tuple[np.ndarray, np.ndarray, None, np.ndarray]:
    """Flags, truths, no weights and groups of a set whose groups of two answers share a truth."""
    groups = np.arange(CALIBRATION) // 2
    truth = (rng.random(CALIBRATION // 2) < 0.4).astype(float)[groups]
    return scores(rng, truth, sensitivity, specificity) >= 0, truth, None, groups


if __name__ == "__main__":
    main()
