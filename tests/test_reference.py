"""Our statistics beside statsmodels: the values it gave (0.15.0) are written down, and computed anew where it is installed."""

import numpy as np
import pytest

from temper import stats

PAIRS = {(3, 12): 0.03515625, (0, 6): 0.03125, (10, 10): 1.0, (25, 9): 0.00904118549078703}
WILSON = {(0, 50): (0.0, 0.07134759913335874), (3, 52): (0.019814172112270614, 0.15642511368960765)}
EXACT = {(0, 50): (0.0, 0.07112173646419767), (3, 52): (0.012059318026738423, 0.159473358638591)}
HOLM = ([0.01, 0.04, 0.03, 0.005, 0.5], [0.04, 0.09, 0.09, 0.025, 0.5])
CHANGE = ([1, 0, -1, 0, 1, 1, 0, 0, 1, -1, 0, 1], [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4])
CLUSTERED = 0.12757759076995726  # OLS on a constant, cov_type="cluster", df_correction=False
DID, DID_ERROR = 0.09, 0.05498757603740631  # OLS on arm x split, cov_type="cluster"


def two_by_two():
    """Two arms asked the same 400 prompts, half of them out of distribution: outcome, arm, split and prompt of 800 answers."""
    rng = np.random.default_rng(0)
    prompt, split, arm = np.repeat(np.arange(400), 2), np.repeat(np.arange(400) % 2, 2), np.tile([0, 1], 400)
    ease = rng.normal(size=400)[prompt]
    return ((ease + rng.normal(size=800) + 0.3 * arm * split) > 0.5).astype(float), arm, split, prompt


def test_tests_intervals_and_corrections_are_those_of_statsmodels():
    assert {pair: stats.mcnemar(*pair).p for pair in PAIRS} == pytest.approx(PAIRS)
    for known, ours in ((WILSON, stats.proportion), (EXACT, stats.clopper_pearson)):
        for (k, n), ends in known.items():
            assert (ours(k, n).low, ours(k, n).high) == pytest.approx(ends, abs=1e-9)
    assert stats.holm(HOLM[0]) == pytest.approx(HOLM[1])
    values, clusters = CHANGE
    assert stats.standard_error(values, clusters) == pytest.approx(CLUSTERED)


def test_a_difference_in_differences_is_the_clustered_regressions():
    y, arm, split, prompt = two_by_two()
    weights = {(1, 1): 1.0, (1, 0): -1.0, (0, 1): -1.0, (0, 0): 1.0}
    cells = [(int(a), int(s)) for a, s in zip(arm, split, strict=True)]
    found = stats.linear_contrast(y, cells, weights, prompt, draws=20_000)
    assert found.value == pytest.approx(DID)
    assert (found.high - found.low) / 2 == pytest.approx(stats.student(399) * DID_ERROR, rel=0.03)


def test_the_values_written_down_are_those_of_the_installed_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    assert {(b, c): mcnemar([[0, b], [c, 0]], exact=True).pvalue for b, c in PAIRS} == pytest.approx(PAIRS)
    assert multipletests(HOLM[0], method="holm")[1] == pytest.approx(HOLM[1])
    for known, method in ((WILSON, "wilson"), (EXACT, "beta")):
        for (k, n), ends in known.items():
            assert proportion_confint(k, n, method=method) == pytest.approx(ends, abs=1e-9)
    values, clusters = (np.array(x, dtype=float) for x in CHANGE)
    fit = api.OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters.astype(int), "df_correction": False}
    )
    assert fit.bse[0] == pytest.approx(CLUSTERED)
    y, arm, split, prompt = two_by_two()
    fit = api.OLS(y, np.column_stack([np.ones(800), arm, split, arm * split])).fit(
        cov_type="cluster", cov_kwds={"groups": prompt}
    )
    assert (fit.params[3], fit.bse[3]) == pytest.approx((DID, DID_ERROR))
