"""Estimates, tests and power against published numbers, exact references and small simulations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from temper.stats import (
    clopper_pearson,
    contrast,
    design_effect,
    detectable,
    holm,
    mcnemar,
    mean,
    minimum_detectable_difference,
    minimum_detectable_mean,
    paired_difference,
    proportion,
    sample_size_paired,
    share,
    sign_flip,
    standard_error,
)

bits = st.lists(st.integers(0, 1), min_size=2, max_size=60)


@pytest.mark.parametrize(("k", "n"), [(0, 50), (6, 50), (26, 30), (30, 30), (313, 1000)])
def test_wilson_and_clopper_pearson_agree_with_scipy(k, n):
    exact = reference.binomtest(k, n)
    for ours, method in ((proportion(k, n), "wilson"), (clopper_pearson(k, n), "exact")):
        theirs = exact.proportion_ci(0.95, method=method)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_published_bounds_of_rare_events_are_reproduced():
    assert clopper_pearson(0, 50).high == pytest.approx(0.071, abs=5e-4)
    assert clopper_pearson(0, 313).high == pytest.approx(0.012, abs=5e-4)
    assert (clopper_pearson(6, 50).low, clopper_pearson(6, 50).high) == pytest.approx((0.045, 0.243), abs=5e-4)


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_proportion_lies_inside_its_interval_and_the_interval_inside_the_unit(k, n):
    found = proportion(min(k, n), n)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_nothing_measured_is_not_zero():
    assert proportion(0, 0).as_dict() == {"value": None, "n": 0, "low": None, "high": None}
    assert share([]).as_dict() == mean([]).as_dict() == paired_difference([], []).as_dict() == proportion(0, 0).as_dict()


def test_a_value_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="ungraded"):
        share([0.5, math.nan])


@given(bits)
def test_a_share_of_single_zero_one_values_is_the_wilson_proportion(values):
    assert share(values) == share(values, range(len(values))) == proportion(sum(values), len(values))


@given(bits, st.integers(2, 5))
def test_repeating_every_value_inside_its_cluster_adds_no_certainty(values, times):
    once = share(values, range(len(values)))
    repeated = share(np.repeat(values, times), np.repeat(np.arange(len(values)), times))
    assert repeated.value == pytest.approx(once.value)
    assert repeated.high - repeated.low >= (once.high - once.low) * 0.99


def test_a_share_of_values_that_all_agree_keeps_an_interval():
    found = share([0] * 50, [i // 2 for i in range(50)])
    assert found.low == 0 and found.high == pytest.approx(share([0] * 25, range(25)).high, abs=0.02)


def test_a_mean_has_the_t_interval():
    values = [3.0, 5.0, 8.0, 13.0]
    theirs = reference.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean(values).low, mean(values).high) == pytest.approx((theirs.low, theirs.high))


def test_the_clustered_standard_error_matches_a_value_worked_by_hand():
    # Clusters (1, 0) and (1, 1): mean 3/4, residual sums -1/2 and 1/2, so SE^2 = 2 * (1/4 + 1/4) / 16.
    assert standard_error([1, 0, 1, 1], ["a", "a", "b", "b"]) == pytest.approx(0.25)


def test_without_shared_clusters_the_standard_error_is_the_ordinary_one():
    values = np.random.default_rng(1).random(40)
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(40))


def test_a_paired_difference_is_antisymmetric():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert forth.value == -back.value
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=0.02)


def test_a_paired_difference_repeats_itself_with_its_seed():
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    assert paired_difference(a, b, seed=5) == paired_difference(a, b, seed=5) != paired_difference(a, b, seed=6)


def test_no_observed_change_is_not_a_proof_of_no_change():
    found = paired_difference([0, 1] * 25, [0, 1] * 25)
    assert (found.low, found.high) == pytest.approx((-0.0711, 0.0711), abs=1e-4)


def test_a_change_seen_in_one_direction_only_does_not_rule_out_the_other():
    """One of 16 prompts falls, none rises: a bootstrap ends at 0 and passes any margin; the exact bound of 0 of 16 is 0.206."""
    falls = paired_difference([0.0] * 16, [1.0] + [0.0] * 15)
    assert falls.value == -1 / 16 and 0.14 < falls.high < clopper_pearson(0, 16).high
    rises = paired_difference([1.0] + [0.0] * 15, [0.0] * 16)
    assert (rises.low, rises.high) == (-falls.high, -falls.low)
    many = paired_difference([0.0] * 200, [1.0] * 40 + [0.0] * 160)
    assert many.high < -0.13


def test_a_few_clusters_do_not_make_the_interval_too_sure():
    """Five clusters of eight under the null: plain percentiles reject 14 % of times, Student's about 5."""
    rng, rejected, runs = np.random.default_rng(8), 0, 500
    for run in range(runs):
        luck = rng.normal(size=(2, 5)).repeat(8, axis=1)
        a, b = (luck + rng.normal(size=luck.shape) > 0.5).astype(float)
        found = paired_difference(a, b, np.arange(40) // 8, draws=800, seed=run)
        rejected += found.low > 0 or found.high < 0
    assert rejected / runs < 0.08


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="3 values against 2"):
        paired_difference([1, 0, 1], [1, 0])


@pytest.mark.parametrize(("n", "discordance", "change"), [(50, 0.2, 0.1), (300, 0.1, 0.05), (300, 0.04, 0.0)])
def test_the_paired_interval_covers_the_truth_about_nineteen_times_in_twenty(n, discordance, change):
    rng, hits = np.random.default_rng(4), 0
    chances = [(discordance + change) / 2, 1 - discordance, (discordance - change) / 2]
    for seed in range(400):
        drawn = rng.choice([1, 0, -1], size=n, p=chances)
        found = paired_difference(drawn == 1, drawn == -1, draws=1_000, seed=seed)
        hits += found.low <= change <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_under_the_null_the_clustered_interval_rejects_rarely_where_the_naive_one_does_often():
    rng, clusters, naive, clustered = np.random.default_rng(5), np.repeat(np.arange(50), 10), 0, 0
    for seed in range(200):
        shift = np.repeat(rng.normal(0, 1, 50), 10)
        a, b = shift + rng.normal(0, 0.6, 500), np.zeros(500)
        one, other = (paired_difference(a, b, ids, draws=500, seed=seed) for ids in (None, clusters))
        naive += one.low > 0 or one.high < 0
        clustered += other.low > 0 or other.high < 0
    assert clustered / 200 < 0.12 < 0.3 < naive / 200


@pytest.mark.parametrize(("b", "c", "p", "mid_p"), [(1, 7, 0.0703, 0.0391), (6, 16, 0.0525, 0.0347)])
def test_mcnemar_reproduces_the_published_examples(b, c, p, mid_p):
    """Fagerland, Lydersen and Laake 2013: airway hyper-responsiveness, and complete response to treatment."""
    found = mcnemar(b, c)
    assert (found.p, found.mid_p) == pytest.approx((p, mid_p), abs=5e-5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_exact_mcnemar_is_the_binomial_test_and_mid_p_is_never_larger(b, c):
    found = mcnemar(b, c)
    assert found.p == pytest.approx(reference.binomtest(b, b + c).pvalue if b + c else 1.0)
    assert found.mid_p <= found.p


@given(st.integers(0, 7), st.integers(0, 7))
@settings(deadline=None)
def test_sign_flips_of_single_pairs_are_mcnemar(b, c):
    assert sign_flip([1] * c + [-1] * b + [0] * 5) == pytest.approx(mcnemar(b, c).p)


def test_drawn_sign_flips_come_close_to_the_exact_test():
    assert sign_flip([1] * 30 + [-1] * 14, seed=1) == pytest.approx(mcnemar(14, 30).p, abs=0.005)


def test_sign_flips_treat_a_cluster_as_one_piece_of_evidence():
    assert sign_flip([1] * 20, ["one"] * 20) == 1.0
    assert sign_flip([1] * 20) < 1e-3


def test_holm_matches_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_keeps_the_order_and_stays_below_bonferroni(pvalues):
    adjusted = holm(pvalues)
    order = np.argsort(pvalues, kind="stable")
    assert all(p <= a <= min(1, len(pvalues) * p) + 1e-12 for p, a in zip(pvalues, adjusted, strict=True))
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_the_published_table_of_paired_sample_sizes_is_reproduced():
    shares = (0.06, 0.10, 0.15, 0.20, 0.30)
    assert [sample_size_paired(0.05, psi) for psi in shares] == [186, 312, 469, 626, 940]
    assert [sample_size_paired(0.05, psi, power=0.9) for psi in shares] == [248, 417, 627, 837, 1257]


@pytest.mark.parametrize(
    ("n", "discordance", "points"),
    [(100, 0.1, 8.9), (100, 0.2, 12.5), (300, 0.1, 5.1), (300, 0.2, 7.2), (1000, 0.1, 2.8), (1000, 0.2, 4.0)],
)
def test_the_published_detectable_changes_are_reproduced(n, discordance, points):
    """The published figures neglect the change itself in the variance, which at n = 100 is worth 0.15 of a point."""
    assert 100 * minimum_detectable_mean(math.sqrt(discordance / n)) == pytest.approx(points, abs=0.05)
    assert 100 * minimum_detectable_difference(n, discordance) == pytest.approx(points, abs=0.16)


@given(st.floats(0.01, 0.4), st.floats(0.05, 1.0))
def test_detectable_change_is_the_inverse_of_sample_size(delta, factor):
    discordance = delta + factor * (1 - delta)
    n = sample_size_paired(delta, discordance)
    assert minimum_detectable_difference(n, discordance) <= delta + 1e-6
    assert minimum_detectable_difference(max(1, n - 1), discordance) >= delta - 1e-6


@given(st.integers(5, 2000), st.floats(0, 1))
def test_more_prompts_never_make_the_detectable_change_larger(n, discordance):
    assert minimum_detectable_difference(2 * n, discordance) <= minimum_detectable_difference(n, discordance)


def test_the_power_promised_is_the_power_simulated():
    rng, n = np.random.default_rng(6), sample_size_paired(0.05, 0.10)
    drawn = rng.multinomial(n, [0.075, 0.90, 0.025], size=2000)
    found = np.mean([mcnemar(int(c), int(b)).mid_p < 0.05 for b, _, c in drawn])
    assert 0.76 <= found <= 0.84


def test_a_change_larger_than_its_discordance_is_refused():
    with pytest.raises(ValueError, match=r"change 0\.1"):
        sample_size_paired(0.1, 0.05)


def test_the_detectable_mean_is_two_point_eight_standard_errors():
    assert minimum_detectable_mean(1.0) == pytest.approx(2.80, abs=0.005)


def test_the_design_effect_of_copies_is_their_number():
    values = np.repeat(np.random.default_rng(7).random(200), 4)
    assert design_effect(values, np.repeat(np.arange(200), 4)) == pytest.approx(4, rel=0.02)


def test_a_contrast_of_independent_estimates_has_the_pythagorean_interval():
    found = contrast(proportion(30, 100), proportion(20, 100))
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((-0.021, 0.217), abs=0.002)  # Newcombe 1998, method 10


@pytest.mark.parametrize("clusters", [None, [0, 0, 1], [0, 1, 2]])
def test_a_mean_of_values_that_all_agree_is_unbounded_and_never_sure(clusters):
    found = mean([60.1, 60.1, 60.1], clusters)
    assert (found.value, found.low, found.high) == (pytest.approx(60.1), -math.inf, math.inf)
    assert (found.as_dict()["low"], found.as_dict()["high"]) == (None, None)


def test_unbounded_values_that_all_change_alike_have_no_bounds_and_shares_keep_theirs():
    tokens, shares = paired_difference([90.0] * 3, [60.0] * 3), paired_difference([0.5] * 3, [0.5] * 3)
    assert (tokens.value, tokens.low, tokens.high) == (30.0, -math.inf, math.inf)
    assert -1 < shares.low < 0 < shares.high < 1


def test_what_an_interval_could_have_shown_is_what_its_standard_error_could():
    found = mean(np.random.default_rng(0).normal(size=2000))
    half = (found.high - found.low) / 2
    assert detectable(found) == pytest.approx(minimum_detectable_mean(half / 1.96), rel=1e-4)
    assert detectable(mean([1.0, 1.0])) is None


def test_the_bound_of_shares_is_not_lent_to_values_that_only_happen_to_lie_within_one():
    late, early = np.linspace(0.3, 0.9, 12), np.linspace(0.1, 0.5, 12)
    moved = paired_difference(late + 9, early + 9)
    share, free = paired_difference(late, early), paired_difference(late, early, bounded=False)
    assert (free.low, free.high) == pytest.approx((moved.low, moved.high))
    assert free != share
