"""The learned reward: P(bad) by a few logistic heads over hashed words, refitted on audits, and how much the heads disagree.

Harmful prompts have heads of their own, benign and borderline prompts have theirs: the same words are good under one and bad
under the other. Each head is drawn to an anchor of its own (anchored ensembles, 1810.05546): where the labels say nothing the
heads stay apart, so that words nobody has labelled are uncertain instead of innocent. Leaves out when it is refitted or released.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from temper.rewards.audits import GROUPS, Audit, Group, group_of
from temper.rewards.features import BIAS, WIDTH, Floats, Text, matrix
from temper.types import Completion

LEARNED = "learned"
"""The reward channel that is no grader: the model of the auditor's opinion, fitted on the stage's own audits."""
L2 = 0.5  # inverse variance of a weight; a wholly unknown text has a spread of 1/sqrt(0.5) = 1.4 on the logit scale
FREE = 1e-3  # of the intercept, which every text shares
NEWTON, CONJUGATE = 30, 60  # most iterations of either kind


@dataclass(frozen=True, slots=True)
class Heads:
    """Coefficients (WIDTH, M) of each group of classes; `version` hashes them, and models are equal if their versions are."""

    coefficients: Mapping[Group, Floats] = field(compare=False, repr=False)
    version: str

    def scores(self, completions: Sequence[Completion]) -> tuple[Floats, Floats]:
        """Mean and standard deviation over heads of P(bad), (N,) each; NaN where no head knows the prompt's class."""
        groups = [group_of(c.example.klass) for c in completions]
        return self.predict([(c.reasoning, c.answer) for c in completions], groups)

    def predict(self, texts: Sequence[Text], groups: Sequence[Group | None]) -> tuple[Floats, Floats]:
        mean, deviation = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
        if not texts:
            return mean, deviation
        x = matrix(texts)
        for group, weights in self.coefficients.items():
            mine = [i for i, g in enumerate(groups) if g == group]
            if mine:
                p = _sigmoid(x[mine] @ weights)
                mean[mine], deviation[mine] = p.mean(axis=1), p.std(axis=1)
        return mean, deviation


def fit(audits: Sequence[Audit], *, heads: int, seed: int) -> Heads | None:
    """Fit every group that has a label; None without any. The same labels give the same bits, whatever the threads.

    Heads differ by exponential bootstrap weights (Rubin 1981) and by their anchors, whose mean over heads is 0. Draws do not
    weigh here: what was sought out by audits is what a reward has to tell apart.
    """
    coefficients: dict[Group, Floats] = {}
    for number, group in enumerate(GROUPS):
        mine = [a for a in audits if a.group == group and a.bad is not None]
        if mine:
            coefficients[group] = _fitted(mine, heads, np.random.default_rng((seed, number)))
    if not coefficients:
        return None
    hashed = hashlib.sha256()
    for group, weights in coefficients.items():
        hashed.update(group.encode() + weights.tobytes())
    return Heads(coefficients, hashed.hexdigest()[:16])


def _fitted(audits: Sequence[Audit], heads: int, rng: np.random.Generator) -> Floats:
    anchors = rng.normal(scale=L2**-0.5, size=(WIDTH, heads))
    anchors -= anchors.mean(axis=1, keepdims=True)
    anchors[BIAS:] = 0.0
    x = matrix([(a.reasoning, a.answer) for a in audits])
    y = np.array([a.bad for a in audits], dtype=np.float64)
    columns = np.unique(x.indices)  # a word that no label speaks of stays at its anchor
    seen = csr_array(x[:, columns])
    l2 = np.where(columns == BIAS, FREE, L2)
    for head in range(heads):
        weights = rng.exponential(size=len(audits))
        anchors[columns, head] += _moved(seen, y, weights, x @ anchors[:, head], l2)
    return anchors


def _moved(x: csr_array, y: Floats, weights: Floats, offset: Floats, l2: Floats) -> Floats:
    """The step from the anchor to the least of sum weights * log loss + l2/2 * step^2, by Newton with conjugate gradients."""
    turned, step = csr_array(x.T.tocsr()), np.zeros(x.shape[1])

    def loss(at: Floats) -> float:
        logit = offset + x @ at
        return float((weights * (np.logaddexp(0.0, logit) - y * logit)).sum() + 0.5 * (l2 * at * at).sum())

    for _ in range(NEWTON):
        p = _sigmoid(offset + x @ step)
        gradient = turned @ (weights * (p - y)) + l2 * step
        if float(np.abs(gradient).max()) < 1e-2:
            break
        move, length, here = _conjugate(x, turned, weights * p * (1 - p), l2, gradient), 1.0, loss(step)
        while loss(step - length * move) > here and length > 1e-6:
            length /= 2
        step = step - length * move
    return step


def _conjugate(x: csr_array, turned: csr_array, curve: Floats, l2: Floats, gradient: Floats) -> Floats:
    """Solve (X' diag(curve) X + l2) move = gradient to one part in 100. No BLAS: its sums depend on the number of threads."""
    move, rest = np.zeros_like(gradient), gradient.copy()
    along, size = rest, float((rest * rest).sum())
    enough = 1e-4 * size
    for _ in range(CONJUGATE):
        bent = turned @ (curve * (x @ along)) + l2 * along
        pace = size / float((along * bent).sum())
        move, rest = move + pace * along, rest - pace * bent
        size, before = float((rest * rest).sum()), size
        if size <= enough:
            break
        along = rest + (size / before) * along
    return move


def _sigmoid(x: NDArray[np.float64]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))
