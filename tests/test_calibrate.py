"""A judge's errors, rates freed of them, and calibration: against references, worked examples, and small seeded simulations."""

import importlib
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from temper import Completion, Example, Message, Score, catalog, judge_error, stats
from temper.cli import graders as cli
from temper.data.labels import TARGETS, read_labels
from temper.data.labels import target as named_target
from temper.errors import DataError, StorageError, TemperError, UsageError
from temper.graders import calibrate
from temper.graders.calibrate import Calibrated, Criterion, Curve, fit, threshold
from temper.graders.card import Judged, rises, toward
from temper.judge_error import Audited, Errors, Rate, powered_difference, powered_mean, rogan_gladen

units = st.floats(0, 1, allow_nan=False)


def audited(predictions, labels, probability, strata=None, clusters=None):
    n = len(predictions)
    arrays = [np.asarray(a, dtype=float) for a in (predictions, labels, probability)]
    return Audited(*arrays, strata if strata is not None else [0] * n, clusters if clusters is not None else list(range(n)))


# --- rates ------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_a_rate_without_weights_or_clusters_is_the_plain_proportion(values):
    assert judge_error.rate(values).estimate() == stats.proportion(sum(values), len(values))


def test_a_clustered_rate_is_that_of_stats_share():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 60, 200)
    values = (rng.random(60)[clusters] < 0.3).astype(float)
    ours, theirs = judge_error.rate(values, clusters=clusters).estimate(), stats.share(values, clusters)
    assert (ours.value, ours.n) == (pytest.approx(theirs.value), 200)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=2e-3), pytest.approx(theirs.high, abs=2e-3))


def test_weights_count_a_row_as_often_as_it_stands_for_others():
    heavy = judge_error.rate([1, 0, 0], [2.0, 1.0, 1.0], [0, 1, 2])
    assert heavy.value == pytest.approx(0.5)
    assert judge_error.rate([1, 1, 0, 0], clusters=[0, 0, 1, 2]).value == pytest.approx(0.5)
    assert heavy.size < 3


def test_values_that_all_agree_never_read_as_certain_whatever_their_weights():
    found = judge_error.rate([1, 1, 1], [0.3, 0.7, 1.9], ["a", "b", "c"]).estimate()
    assert found.value == pytest.approx(1.0) and found.low < 0.6


@pytest.mark.parametrize("weight", [0.1, 0.7, 1.1, 3.3])
def test_rounding_of_weights_makes_no_rate_above_one(weight):
    for n in range(2, 30):  # eight times 0.7 against their sum is 1.0000000000000002
        known = judge_error.rate(np.ones(n), np.full(n, weight))
        assert known.value == pytest.approx(1)
        assert known.value <= 1
        assert Errors(known, known).youden.high <= 1


def test_sensitivity_and_specificity_are_those_of_the_two_by_two_table():
    flags, truth = [1] * 8 + [0] * 2 + [1] * 3 + [0] * 17, [1] * 10 + [0] * 20
    found = judge_error.errors(flags, truth)
    assert (found.sensitivity, found.specificity) == (Rate(0.8, 10, 10.0), Rate(0.85, 20, 20.0))
    assert found.youden.value == pytest.approx(0.65)
    assert found.informative


@pytest.mark.parametrize(("hits", "of"), [(5, 10), (6, 10), (24, 40)])
def test_a_judge_near_chance_is_not_informative(hits, of):
    flags = [1] * hits + [0] * (of - hits) + [1] * (of // 2) + [0] * (of - of // 2)
    assert not judge_error.errors(flags, [1] * of + [0] * of).informative


def test_a_judge_without_labels_of_one_kind_is_not_informative():
    assert not judge_error.errors([1, 1], [1, 1]).informative
    assert rogan_gladen(Rate(0.3, 10, 10.0), judge_error.errors([1, 1], [1, 1])).as_dict()["value"] is None


# --- Rogan-Gladen -----------------------------------------------------------------------------------------------------------


def test_rogan_gladen_gives_the_worked_example_and_lang_and_reiczigel_s_interval():
    """Observed 0.25 of 1,000; sensitivity 0.9 and specificity 0.95 of 200 each: (0.25 + 0.95 - 1) / 0.85."""
    found = rogan_gladen(Rate(0.25, 1000, 1000.0), Errors(Rate(0.9, 200, 200.0), Rate(0.95, 200, 200.0)))
    assert found.value == pytest.approx(0.2 / 0.85)
    z = 1.959963984540054
    n, p = 1000 + z**2, (250 + z**2 / 2) / (1000 + z**2)
    se, sp, m = 181 / 202, 191 / 202, 202
    t = (p + sp - 1) / (se + sp - 1)
    shift = 2 * z**2 * (t * se * (1 - se) / m - (1 - t) * sp * (1 - sp) / m)
    half = z * math.sqrt(p * (1 - p) / n + t**2 * se * (1 - se) / m + (1 - t) ** 2 * sp * (1 - sp) / m) / (se + sp - 1)
    assert (found.low, found.high) == (pytest.approx(t + shift - half), pytest.approx(t + shift + half))


@given(st.floats(0, 1), st.floats(0.65, 1), st.floats(0.65, 1), st.integers(50, 400))
def test_a_corrected_rate_lies_inside_its_interval_and_the_interval_inside_the_unit(p, se, sp, n):
    found = rogan_gladen(Rate(p, n, float(n)), Errors(Rate(se, n, float(n)), Rate(sp, n, float(n))))
    if found.n:
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_perfect_judge_with_endless_labels_corrects_nothing():
    found = rogan_gladen(Rate(0.3, 100, 100.0), Errors(Rate(1.0, 10**9, 1e9), Rate(1.0, 10**9, 1e9)))
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((stats.proportion(30, 100).low, stats.proportion(30, 100).high), abs=0.012)


def test_fewer_calibration_labels_make_the_interval_wider():
    def width(m):
        found = rogan_gladen(Rate(0.2, 500, 500.0), Errors(Rate(0.8, m, float(m)), Rate(0.9, m, float(m))))
        return found.high - found.low

    assert width(50) > 1.3 * width(200) > 1.3 * width(5000)


# --- prediction-powered -----------------------------------------------------------------------------------------------------


def test_with_every_row_labelled_the_powered_mean_is_the_mean_of_the_labels():
    y = [1, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    for power in (0.0, 0.5, 1.0, None):
        found = powered_mean(audited([0.3] * 5 + [0.9] * 5, y, [1.0] * 10), power)
        assert found.estimate.value == pytest.approx(0.3) and found.labelled == 10


def test_the_powered_mean_is_the_textbook_formula_for_a_simple_sample():
    rng = np.random.default_rng(1)
    f, y = rng.random(200), (rng.random(200) < 0.3).astype(float)
    labels = np.where(np.arange(200) < 50, y, np.nan)
    for power in (0.0, 0.4, 1.0):
        found = powered_mean(audited(f, labels, [0.25] * 200), power)
        wanted = power * f.mean() + (y[:50] - power * f[:50]).mean()
        assert found.estimate.value == pytest.approx(wanted)


def test_the_tuned_power_gives_the_least_variance():
    rng = np.random.default_rng(2)
    y = (rng.random(400) < 0.3).astype(float)
    f = 0.2 * y + 0.8 * rng.random(400)
    arm = audited(f, np.where(np.arange(400) < 100, y, np.nan), [0.25] * 400)
    tuned = powered_mean(arm)
    width = {power: (e := powered_mean(arm, power).estimate).high - e.low for power in (0.0, 1.0)}
    assert 0 < tuned.power < 1
    assert tuned.estimate.high - tuned.estimate.low < min(width.values())

    def spread(power):
        return np.var(judge_error._linear(arm, power)[1])

    assert spread(tuned.power) <= min(map(spread, np.linspace(0, 1, 101))) + 1e-12


def test_a_judge_that_knows_nothing_gets_no_power():
    rng = np.random.default_rng(3)
    y = (rng.random(4000) < 0.4).astype(float)
    arm = audited(rng.random(4000), np.where(np.arange(4000) < 1000, y, np.nan), [0.25] * 4000)
    assert powered_mean(arm).power < 0.1


def test_oversampling_does_not_move_the_estimate():
    """Strata of 90 and 10 rows, 9 and all 10 labelled: each labelled row of the first stands for ten."""
    labels = [1.0, *[0.0] * 8, *[math.nan] * 81, *[1.0] * 10]
    found = powered_mean(audited([0.0] * 90 + [1.0] * 10, labels, [0.1] * 90 + [1.0] * 10, [0] * 90 + [1] * 10))
    assert found.estimate.value == pytest.approx((90 / 9 + 10) / 100)


def test_a_stratum_without_a_surprise_still_widens_the_interval():
    few = audited([0.0] * 100, [0.0] * 5 + [math.nan] * 95, [0.05] * 100)
    many = audited([0.0] * 100, [0.0] * 80 + [math.nan] * 20, [0.8] * 100)
    assert powered_mean(few).estimate.high > 0.3 > 0.1 > powered_mean(many).estimate.high


def test_arms_that_share_prompts_are_compared_by_prompt():
    rng = np.random.default_rng(4)
    mood = rng.random(300)
    a, b = (mood < 0.5).astype(float), (mood < 0.45).astype(float)
    seen = np.arange(300) < 150
    arms = [audited(y, np.where(seen, y, np.nan), [0.5] * 300) for y in (a, b)]
    apart = [
        audited(y, np.where(seen, y, np.nan), [0.5] * 300, clusters=[f"{n}{i}" for i in range(300)]) for n, y in enumerate((a, b))
    ]
    paired, unpaired = powered_difference(*arms).estimate, powered_difference(*apart).estimate
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_labels_without_a_chance_are_refused():
    with pytest.raises(ValueError, match="inclusion probability"):
        audited([0.5, 0.5], [1.0, math.nan], [0.0, 0.0])
    with pytest.raises(ValueError, match="one length"):
        Audited(np.zeros(2), np.zeros(3), np.ones(2), [0, 0], [0, 1])


def test_no_label_is_no_estimate():
    assert powered_mean(audited([0.5], [math.nan], [0.5])).estimate.n == 0


def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch):
    """75 simulated audits each of two judges at two rates; the full table is in docs/calibration.md."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    simulated = importlib.import_module("intervals")
    for p, judge in product((0.1, 0.4), ((0.85, 0.97), (0.75, 0.9))):
        runs = list(simulated.simulate(p, *judge, runs=75, seed=5))
        observed, corrected, _, powered, _, gap = (np.mean([held for held, _ in column]) for column in zip(*runs, strict=True))
        assert min(corrected, powered, gap) >= 0.88, (p, judge, corrected, powered, gap)
    assert observed < 0.9


# --- curves and thresholds --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(units, st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_isotonic_regression_is_the_reference_s_with_its_ends_held_off_certainty(pairs):
    from scipy.optimize import isotonic_regression

    x, y = np.array([p for p, _ in pairs]), np.array([float(b) for _, b in pairs])
    at, inverse = np.unique(x, return_inverse=True)
    mass = np.bincount(inverse)
    wanted = isotonic_regression(np.bincount(inverse, y) / mass, weights=mass).x
    edge = 1 / (len(x) + 2)
    assert fit(x, y, np.ones_like(x), "isotonic")(at) == pytest.approx(np.clip(wanted, edge, 1 - edge))


def test_pool_adjacent_violators_by_hand():
    curve = fit(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4), "isotonic")
    assert curve([0.1, 0.2, 0.3, 0.4]) == pytest.approx([1 / 6, 0.5, 0.5, 5 / 6])


def test_platt_scaling_finds_the_line_the_labels_were_drawn_from():
    rng = np.random.default_rng(0)
    value = rng.random(20_000)
    logit = np.log(value / (1 - value))
    label = (rng.random(20_000) < 1 / (1 + np.exp(-(1.7 * logit - 0.6)))).astype(float)
    assert fit(value, label, np.ones(20_000), "platt").x == pytest.approx((1.7, -0.6), abs=0.08)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
@given(pairs=st.lists(st.tuples(units, st.booleans()), min_size=4, max_size=30))
@settings(deadline=None, max_examples=50)
def test_every_curve_rises_and_stays_off_zero_and_one(method, pairs):
    x, y = np.array([p for p, _ in pairs]), np.array([float(b) for _, b in pairs])
    curve = fit(x, y, np.ones_like(x), method)
    p = curve(np.linspace(0, 1, 101))
    assert (np.diff(p) >= -1e-12).all() and p.min() > 0 and p.max() < 1


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=6, max_size=40))
@settings(deadline=None)
def test_the_chosen_threshold_is_the_best_of_all_there_are(pairs):
    p, y = np.array([v for v, _ in pairs]), np.array([float(b) for _, b in pairs])
    if 0 < y.sum() < len(y):

        def youden(t):
            return (p >= t)[y == 1].mean() + (p < t)[y == 0].mean()

        assert youden(threshold(p, y, np.ones_like(p), Criterion())) == pytest.approx(max(youden(t) for t in p))


def test_a_floor_on_specificity_is_kept_and_one_that_nothing_keeps_is_an_error():
    p, y = np.array([0.1, 0.2, 0.6, 0.3, 0.7, 0.9]), np.array([0.0, 0, 0, 1, 1, 1])
    assert 0.6 < threshold(p, y, np.ones(6), Criterion.parse("specificity=0.95")) < 0.7
    assert 0.2 < threshold(p, y, np.ones(6), Criterion.parse("sensitivity=0.95")) < 0.3
    with pytest.raises(DataError, match="lower the floor"):
        threshold(np.array([0.5, 0.5]), np.array([0.0, 1.0]), np.ones(2), Criterion.parse("specificity=0.95"))


@pytest.mark.parametrize("text", ["", "yoden", "specificity", "specificity=x", "specificity=2", "youden=0.5"])
def test_a_criterion_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="wanted youden"):
        Criterion.parse(text)


def rows_of(n=80, *, seed=0, arms=("base", "rl")):
    """Judged rows of a judge that is right but far too timid: its values lie below 0.2. On the last arm it knows nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        yes, arm = bool(i % 3 == 0), arms[i % len(arms)]
        value = float(np.clip(0.05 + 0.1 * (yes and arm == arms[0]) + 0.02 * rng.normal(), 0, 1))
        made.append(Judged(value, value >= 0.5, yes, f"g{i // 2}", arm=arm, language="en"))
    return made


def test_no_row_is_judged_by_a_curve_that_saw_its_group(monkeypatch):
    rows, seen = rows_of(), []
    fitted = calibrate.fit

    def spy(values, labels, weights, method):
        seen.append(set(values))
        return fitted(values, labels, weights, method)

    monkeypatch.setattr(calibrate, "fit", spy)
    calibrate.cross_fitted(rows, "isotonic", Criterion())
    groups = {r.group for r in rows}
    held = [groups - {r.group for r in rows if r.value in values} for values in seen]
    assert sorted(g for fold in held for g in fold) == sorted(groups)


def test_calibration_finds_what_a_timid_threshold_missed_and_says_where_the_judge_knows_nothing():
    curve, limit, figures = calibrate.calibrate(rows_of(200), by=["arm"])
    base, rl = figures["by"]["arm"]["base"], figures["by"]["arm"]["rl"]
    assert base["shipped"]["sensitivity"]["value"] == 0 and not base["shipped"]["informative"]
    assert base["calibrated"]["sensitivity"]["value"] > 0.9 and base["calibrated"]["informative"]
    assert not rl["calibrated"]["informative"]
    assert curve([0.15])[0] > limit > curve([0.03])[0]
    assert figures["all"]["brier"]["calibrated"] < figures["all"]["brier"]["shipped"]


def test_labels_drawn_at_random_are_not_found_informative_out_of_sample():
    rng = np.random.default_rng(7)
    rows = [
        Judged(float(v), bool(v > 0.5), bool(y), str(i))
        for i, (v, y) in enumerate(zip(rng.random(60), rng.random(60) < 0.5, strict=True))
    ]
    assert not calibrate.calibrate(rows)[2]["all"]["calibrated"]["informative"]


def test_too_few_labels_of_one_kind_are_refused():
    with pytest.raises(DataError, match="wanted at least 10"):
        calibrate.calibrate([Judged(0.5, True, i < 5, str(i)) for i in range(50)])
    with pytest.raises(DataError, match="in 1 groups"):
        calibrate.calibrate([Judged(0.5, True, i < 20, "a" if i < 20 else str(i)) for i in range(50)])


# --- a calibrated grader ----------------------------------------------------------------------------------------------------


def answered(*answers, tags=frozenset()):
    return [Completion(Example(str(n), (Message("user", "q"),), tags=tags), a) for n, a in enumerate(answers)]


def by_length(completions):
    return [
        Score(min(1.0, len(c.answer) / 10), parts={"threshold": 0.9}) if c.answer else Score(None, "empty") for c in completions
    ]


def test_a_calibrated_grader_maps_values_keeps_abstentions_and_the_good_end():
    made = Calibrated(by_length, Curve("isotonic", (0.0, 1.0), (0.2, 0.6)), 0.5)
    low, high, none = made(answered("", "x" * 10, "")) and made(answered("x", "x" * 10, ""))
    assert (low.value, high.value, none.value) == (pytest.approx(0.24), pytest.approx(0.6), None)
    assert high.parts["threshold"] == 0.5 and high.parts["raw"] == 1.0 and none.why == "empty"
    assert made.better == "high"


@given(st.floats(0, 1), st.floats(0.1, 0.9))
def test_a_falling_grader_keeps_its_direction_and_flags_the_same_rows(value, limit):
    made = Calibrated(lambda cs: [Score(value)] * len(cs), Curve("isotonic", (0.0, 1.0), (0.0, 1.0)), limit, rising=False)
    [score] = made(answered("x"))
    assert score.value == pytest.approx(value, abs=2e-6)
    oriented, flagged = toward(score, rising=False)
    assert flagged == (oriented >= limit) or abs(oriented - limit) < 2e-6


def test_the_label_s_yes_is_at_the_grader_s_bad_end_for_bad_things_and_as_it_is_for_others():
    assert rises("low", True) and not rises("high", True)
    assert rises("high", False) and not rises("low", False)
    assert rises("high", None) and rises("low", None)


GRADER = '''
from temper import Score

def alarm(completions):
    """How loud an answer is."""
    return [Score(c.answer.count("!") / 10) if c.answer else Score(None, "no answer") for c in completions]

alarm.better = "low"
'''


@pytest.fixture
def labelled(tmp_path):
    """A grader that is right and timid, and a file of 60 train and 20 dev rows."""
    (tmp_path / "loud.py").write_text(GRADER)
    rng = np.random.default_rng(0)
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for i in range(80):
            bad = i % 2 == 0
            shouts = int(rng.integers(2, 5)) if bad else int(rng.integers(0, 3))
            label, source, split = "unsafe" if bad else "safe", "ours" if i % 3 else "theirs", "train" if i < 60 else "dev"
            asked = {"id": f"r{i}", "prompt": f"Question {i}", "response": "Answer" + "!" * shouts, "group": f"g{i // 2}"}
            row = {**asked, "label": label, "source": source, "language": "en", "split": split}
            file.write(json.dumps(row) + "\n")
    return tmp_path


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, TemperError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_calibrate_from_the_command_line_and_use_the_file(labelled):
    spec, out = f"{labelled / 'loud.py'}:alarm", labelled / "c.json"
    said = invoke("calibrate", spec, "--labels", labelled / "rows.jsonl", "--by", "source", "--out", out)
    assert "Positive is 'unsafe'" in said and "20 × split dev" in said and "source theirs" in said
    made = catalog.grader(f"calibrated:{out}")
    loud, calm, none = made.grade(answered("No!!!!", "Fine.", ""))
    assert loud.value > loud.parts["threshold"] > calm.value and none.value is None
    assert made.name == "alarm" and made.better == "low"
    bare = catalog.grader(spec)
    assert made.identity != bare.identity
    held = calibrate.read(out)
    assert held.data["n"] == 60 and held.errors("calibrated").informative and not held.errors("shipped").informative
    with pytest.raises(DataError, match="--by arm"):
        held.errors(arm="base")


def test_a_calibration_of_another_version_of_the_grader_is_refused(labelled):
    spec, out = f"{labelled / 'loud.py'}:alarm", labelled / "c.json"
    invoke("calibrate", spec, "--labels", labelled / "rows.jsonl", "--out", out)
    (labelled / "loud.py").write_text(GRADER.replace("/ 10", "/ 20"))
    with pytest.raises(DataError, match="again"):
        catalog.grader(f"calibrated:{out}")


def test_dev_rows_are_never_calibrated_on(labelled):
    with pytest.raises(UsageError, match="train rows only"):
        invoke("calibrate", f"{labelled / 'loud.py'}:alarm", "--labels", labelled / "rows.jsonl", "--split", "dev")
    only_dev = [line for line in (labelled / "rows.jsonl").read_text().splitlines() if '"dev"' in line]
    (labelled / "dev.jsonl").write_text("\n".join(only_dev))
    with pytest.raises(DataError, match="20 with split dev"):
        invoke("calibrate", f"{labelled / 'loud.py'}:alarm", "--labels", labelled / "dev.jsonl")


def test_a_judge_that_knows_nothing_is_called_not_informative(labelled):
    (labelled / "blind.py").write_text(
        "from temper import Score\ndef blind(cs):\n    return [Score(len(c.example.id) % 2 / 2) for c in cs]\n"
    )
    out = labelled / "c.json"
    said = invoke("calibrate", f"{labelled / 'blind.py'}:blind", "--labels", labelled / "rows.jsonl", "--out", out)
    assert "judge not informative: sensitivity + specificity - 1" in said
    assert json.loads(out.read_text())["figures"]["all"]["calibrated"]["informative"] is False


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "curve": {"method": "platt"}}', "\x00"])
def test_a_file_that_is_no_calibration_says_so(tmp_path, body):
    (tmp_path / "c.json").write_text(body)
    with pytest.raises((DataError, StorageError), match=r"c\.json"):
        calibrate.read(tmp_path / "c.json")


# --- label files ------------------------------------------------------------------------------------------------------------


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(path)]


def test_a_word_that_is_no_label_is_named_with_its_line_and_the_nearest(tmp_path):
    good = {"prompt": "q", "response": "a", "label": "safe"}
    with pytest.raises(DataError, match=r"l\.jsonl:2: label is 'unsave'.*did you mean 'unsafe'"):
        read_labels(written(tmp_path / "l.jsonl", good, {**good, "label": "unsave"}), TARGETS["unsafe"])


def test_a_missing_label_field_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"no row has the field 'label'.*did you mean 'labels'"):
        read_labels(written(tmp_path / "l.jsonl", {"prompt": "q", "response": "a", "labels": "safe"}), TARGETS["unsafe"])


def test_a_file_given_twice_is_an_error_not_twice_the_evidence(tmp_path):
    source = written(tmp_path / "l.jsonl", {"id": "1", "prompt": "q", "response": "a", "label": "safe"})
    with pytest.raises(DataError, match="already read"):
        read_labels(source * 2, TARGETS["unsafe"])


def test_rows_without_a_verdict_are_left_out_and_counted(tmp_path):
    base = {"prompt": "q", "response": "a"}
    source = written(tmp_path / "l.jsonl", {**base, "label": "safe"}, {**base, "label": "unsure"}, base, {**base, "label": None})
    found = read_labels(source, TARGETS["unsafe"])
    assert len(found.rows) == 1 and found.left_out == {"label unsure": 1, "no label": 2}


def test_of_an_audit_merged_twice_the_last_label_counts(tmp_path):
    row = {"key": "k", "id": "1", "prompt": "q", "answer": "a", "labels": {"ann": "safe"}, "label": "safe", "probability": 0.25}
    found = read_labels(written(tmp_path / "l.jsonl", row, {**row, "label": "unsafe"}), TARGETS["unsafe"])
    assert [(r.positive, r.weight) for r in found.rows] == [(True, 4.0)]


def test_a_row_audited_for_two_things_keeps_both_labels(tmp_path):
    row = {"key": "k", "id": "1", "prompt": "q", "answer": "a", "labels": {"ann": "x"}}
    source = written(
        tmp_path / "l.jsonl", {**row, "target": "unsafe", "label": "safe"}, {**row, "target": "refusal", "refusal": "refused"}
    )
    assert [r.positive for r in read_labels(source, TARGETS["unsafe"]).rows] == [False]
    assert [r.positive for r in read_labels(source, TARGETS["refusal"]).rows] == [True]


def test_refusals_requests_other_columns_and_other_words_are_read(tmp_path):
    refusal = written(
        tmp_path / "r.jsonl",
        {"prompt": "q", "response": "a", "refusal": True},
        {"prompt": "p", "response": "a", "refusal": False},
    )
    assert [r.positive for r in read_labels(refusal, TARGETS["refusal"]).rows] == [True, False]
    prompts = written(
        tmp_path / "p.jsonl",
        {"text": "q", "label": "harmful"},
        {"text": "p", "label": "benign"},
        {"text": "x", "label": "unrated"},
    )
    requests = read_labels(prompts, TARGETS["request"])
    assert [(r.positive, r.completion.answer) for r in requests.rows] == [(True, ""), (False, "")]
    mine = written(
        tmp_path / "m.jsonl", {"prompt": "q", "answer": "a", "verdict": "Bad"}, {"prompt": "p", "answer": "a", "verdict": "meh"}
    )
    assert [r.positive for r in read_labels(mine, named_target("unsafe", column="verdict", positive="bad")).rows] == [True, False]


def test_a_yes_that_was_a_no_turns_the_target_round():
    turned = named_target("unsafe", positive="safe")
    assert (turned.positive, turned.negative, turned.bad) == (("safe",), ("unsafe",), False)


def test_csv_with_reasoning_tags_is_read_and_a_proof_row_keeps_its_class(tmp_path):
    (tmp_path / "l.csv").write_text("prompt,response,label\nq,<think>hm</think>yes,safe\n", encoding="utf-8-sig")
    [row] = read_labels([str(tmp_path / "l.csv")], TARGETS["unsafe"]).rows
    assert (row.completion.reasoning, row.completion.answer) == ("hm", "yes")
    proof = {
        "id": "x",
        "prompt": "q",
        "answer": "a",
        "reasoning": "r",
        "class": "harmful",
        "arm": "rl",
        "label": "safe",
        "target": None,
    }
    [row] = read_labels(written(tmp_path / "p.jsonl", proof), TARGETS["unsafe"]).rows
    assert "harmful" in row.completion.example.tags and row.arm == "rl" and row.completion.reasoning == "r"


@pytest.mark.parametrize("probability", [0, 2, "x", -1])
def test_a_probability_that_is_none_is_refused(tmp_path, probability):
    row = {"prompt": "q", "response": "a", "label": "safe", "probability": probability}
    with pytest.raises(DataError, match="probability"):
        read_labels(written(tmp_path / "l.jsonl", row), TARGETS["unsafe"])


@pytest.mark.parametrize("text", ["\ud800", "‮abc", "​", "🙂" * 3, "\x00\x01", "x" * 1_000_000, ""])
def test_hostile_answers_are_labelled_rows_like_others(tmp_path, text):
    [row] = read_labels(written(tmp_path / "l.jsonl", {"prompt": "q", "response": text, "label": "safe"}), TARGETS["unsafe"]).rows
    assert row.completion.answer == text.strip()
