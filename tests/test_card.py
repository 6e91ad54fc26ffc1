"""The card of a grader: its figures by hand and against references, what it keeps, counts and says; the command that makes it."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from temper import assess, catalog, registry
from temper.cli import graders as cli
from temper.errors import DataError, TemperError, UnknownName, UsageError
from temper.graders import card
from temper.graders.card import Judged
from temper.stats import auc

scored = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=40)


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, TemperError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@given(scored)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    score, label = np.array([s for s, _ in pairs]), np.array([float(b) for _, b in pairs])
    wins = [(a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]]
    assert auc(score, label) == pytest.approx(float(np.mean(wins))) if wins else math.isnan(auc(score, label))


def test_auc_is_mann_whitney_s_u():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    score, label = rng.normal(size=300).round(1), (rng.random(300) < 0.4).astype(float)
    u = mannwhitneyu(score[label == 1], score[label == 0]).statistic
    assert auc(score, label) == pytest.approx(u / (label.sum() * (1 - label).sum()))


def test_brier_and_calibration_error_by_hand():
    p, label = np.array([0.1] * 10 + [0.8] * 10), np.array([0.0] * 10 + [1.0] * 6 + [0.0] * 4)
    assert card.brier(p, label) == pytest.approx((10 * 0.01 + 6 * 0.04 + 4 * 0.64) / 20)
    order = np.random.default_rng(0).permutation(20)
    assert card.ece(p, label) >= (0.5 * 0.1 + 0.5 * 0.2) - 1e-12
    assert card.ece(np.array([0.25] * 4), np.array([1.0, 0, 0, 0])) == pytest.approx((0.75 + 3 * 0.25) / 4)
    assert card.brier(p[order], label[order]) == pytest.approx(card.brier(p, label))


def rows(n=40, **fields):
    return [Judged(0.9 if i % 2 else 0.2, bool(i % 2), bool(i % 2), f"g{i}", words=i, **fields) for i in range(n)]


def test_a_perfect_grader_has_figures_of_one_and_intervals_below():
    found = card.measure(rows())
    assert found["auc"][0] == found["sensitivity"][0] == found["specificity"][0] == 1
    assert found["sensitivity"][1] < 0.9 and found["length_auc"][0] < 0.6
    assert (found["n"], found["positive"], found["groups"], found["coverage"]) == (40, 20, 40, 1.0)


def test_rows_that_were_not_graded_are_counted_and_never_judged():
    silent = [Judged(None, False, True, f"s{i}", why="too long") for i in range(10)]
    with_silence, without = card.measure(rows() + silent), card.measure(rows())
    assert with_silence["abstained"] == {"too long": 10} and with_silence["coverage"] == 0.8
    assert with_silence["sensitivity"] == without["sensitivity"] and with_silence["positive"] == 30


def test_a_missing_class_leaves_a_cell_empty_instead_of_a_figure():
    found = card.measure([Judged(0.3, False, False, f"g{i}") for i in range(5)])
    assert found["auc"] is None and found["sensitivity"] is None and found["specificity"][0] == 1
    assert card.measure([])["coverage"] is None


def test_rows_of_one_group_have_no_interval():
    found = card.measure([Judged(0.9 if i % 2 else 0.2, bool(i % 2), bool(i % 2), "one") for i in range(20)])
    assert found["auc"] == [1.0, None, None] and found["sensitivity"] == [1.0, 0.0, 1.0]


def test_intervals_resample_groups_not_rows():
    rng = np.random.default_rng(0)
    noisy = [(float(v), bool(v + rng.normal() > 0.5)) for v in rng.random(30)]
    once = [Judged(v, v > 0.5, y, str(i)) for i, (v, y) in enumerate(noisy)]
    assert card.measure(once * 20)["auc"] == pytest.approx(card.measure(once)["auc"], abs=0.03)


def test_a_card_keeps_what_no_row_can_tell():
    known = {"name": "x", "what": "P(x).", "facts": {"trained on": "ours, more (train splits)"}, "limits": ["English only."],
             "sources": {"seen": {"trained_on": True}}}  # fmt: skip
    facts = {"name": "x", "measured": "Measured on f", "reads": "Positive is 'unsafe'."}
    made = card.make([*rows(source="seen"), *rows(source="ours"), *rows(source="new")], facts, known)
    assert [made["sources"][s]["trained_on"] for s in ("seen", "ours", "new")] == [True, True, False]
    page = card.page(made)
    for said in (
        "P(x).",
        "ours, more (train splits)",
        "English only.",
        "| seen | train split |",
        "| new | never |",
        "| **all** |",
    ):
        assert said in page


def test_the_cards_of_the_training_tools_have_the_figures_and_columns_of_graders_card(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    import grading

    items = [grading.Item(str(i), "p", "word " * (i % 7 + 1), float(i % 2), "ours", f"g{i}") for i in range(40)]
    p = np.array([0.9 if i.label else 0.1 for i in items])
    assert grading.measure(items, p, 0.5)["specificity"] == card.measure(rows())["specificity"]
    assert grading.interval(p, [i.group for i in items])[0] == 0.5 and grading.interval(p, ["one"] * 40) == [0.5, None, None]
    sources = grading.figures(items, p, 0.5, ["ours"])
    grading.write_card(tmp_path, {"name": "x", "what": "P(x).", "facts": {}, "sources": sources, "limits": ["few"]})
    assert "\n".join(card.table(sources)) in (tmp_path / "card.md").read_text()


def test_without_a_card_nobody_knows_what_was_trained_on():
    made = card.make(rows(source="s"), {"name": "x", "measured": "m", "reads": "r"})
    assert made["sources"]["s"]["trained_on"] is None and "| s | not known |" in card.page(made)


# --- the command ------------------------------------------------------------------------------------------------------------

GRADER = '''
from temper import Score

def polite(completions):
    """Whether an answer says please."""
    return [Score(float("please" in c.answer)) if c.answer else Score(None, "no answer") for c in completions]
'''


@pytest.fixture
def files(tmp_path):
    (tmp_path / "mine.py").write_text(GRADER)
    made = [
        {"prompt": f"q{i}", "response": "" if i == 0 else ("please" if i % 2 else "no"), "label": "safe" if i % 2 else "unsafe",
         "language": "en" if i % 3 else "de", "source": "s", "split": "dev" if i < 30 else "train"}
        for i in range(40)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in made).encode()))
    return tmp_path


def test_the_card_command_measures_any_grader_and_says_which_end_is_positive(files):
    said = invoke("card", f"{files / 'mine.py'}:polite", "--labels", files / "rows.jsonl.gz", "--out", files / "card")
    made = json.loads((files / "card" / "card.json").read_text())
    assert "card.md" in said
    assert (
        made["all"]["n"] == 30
        and made["all"]["abstained"] == {"no answer": 1}
        and made["data"]["left_out"] == {"split train": 10}
    )
    assert "its low values are read as positive" in made["reads"]
    assert made["all"]["auc"][0] == 1 and set(made["languages"]) == {"de", "en"}
    page = (files / "card" / "card.md").read_text()
    assert "Not graded: 1 × no answer." in page and "| language de |" in page


def test_a_yes_given_by_hand_turns_the_end(files):
    said = invoke("card", f"{files / 'mine.py'}:polite", "--labels", files / "rows.jsonl.gz", "--positive", "safe")
    assert "its high values are read as positive" in said and "1.00 [1.00, 1.00]" in said


def test_all_splits_can_be_measured_and_one_that_is_not_there_is_an_error(files):
    spec, labels = f"{files / 'mine.py'}:polite", files / "rows.jsonl.gz"
    assert "| **all** |  | 40 |" in invoke("card", spec, "--labels", labels, "--split", "")
    with pytest.raises(DataError, match="30 with split dev, 10 with split train"):
        invoke("card", spec, "--labels", labels, "--split", "test")


def test_the_shipped_card_is_printed_and_a_name_without_one_says_how_to_measure_it():
    assert invoke("card", "harm").startswith("# harm") and "Refusal model" in invoke("card", "refusal")
    with pytest.raises(DataError, match=r"graders card format --labels FILE"):
        invoke("card", "format")
    with pytest.raises(UnknownName, match="did you mean 'harm'"):
        invoke("card", "ham")
    with pytest.raises(UsageError, match="need --labels"):
        invoke("card", "harm", "--out", "x")


def test_the_list_names_every_grader_its_good_end_and_its_card():
    listed, forms = invoke().split("\n\n")
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert set(lines) == set(registry.names("grader")) and "judge:RUBRIC@MODEL" in forms
    assert lines["harm"].split()[1:3] == ["low", "card"] and lines["verify"].split()[1] == "high"


@pytest.mark.parametrize("name", ["refusal", "over-refusal"])
def test_the_good_end_that_is_listed_is_the_grader_s_own(name):
    assert assess.good_end(name) == catalog.grader(name).better


def test_the_good_end_of_models_is_what_their_classes_say():
    from temper.graders.gold import Gold
    from temper.graders.harm import Harm

    assert (assess.good_end("harm"), assess.good_end("gold")) == (Harm.better, Gold.better)


def test_rows_without_a_source_or_of_one_that_is_only_part_of_a_name_were_not_trained_on():
    seen = [r for name in ("", "demo", "alpaca_demo") for r in rows(source=name)]
    made = card.make(seen, {"name": "x"}, {"facts": {"trained on": "alpaca_demo (train)"}})
    assert [made["sources"][name]["trained_on"] for name in ("", "demo", "alpaca_demo")] == [None, False, True]
