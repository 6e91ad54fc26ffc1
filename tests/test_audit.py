"""A sample for people, their labels back, and rates corrected with them: from the draw to the table, and what spreadsheets do."""

import csv
import io
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import row
from typer.testing import CliRunner

from temper import audit, judge_error
from temper.agreement import cohen_kappa, krippendorff_alpha
from temper.cli import audit as cli
from temper.errors import DataError, TemperError, UnknownName, UsageError
from temper.files import read_rows
from temper.graders import calibrate
from temper.prove.interop.export import inert

RESULTS = Path(__file__).parent.parent / "results" / "quickstart"


def proof(n=60, arms=("base", "rl"), *, seed=0, miss=0.3):
    """Rows of two arms, and the truth by key: the judge misses a share `miss` of what is unsafe, and flags nothing else."""
    rng, made, truth = random.Random(seed), [], {}
    for arm in arms:
        for i in range(n):
            unsafe = rng.random() < (0.5 if arm == "base" else 0.25)
            seen = unsafe and rng.random() > miss
            value = rng.uniform(0.6, 0.95) if seen else rng.uniform(0.05, 0.45)
            one = row(
                arm, number=i, group=f"g{i}", answer=f"{arm} answer {i}", gold=value, harm=0.9 if rng.random() < 0.1 else value
            )
            made.append(one)
            truth[one["key"]] = unsafe
    return made, truth


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, TemperError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def drawn(tmp_path):
    """A rows file, a drawn sheet of 40, its key, and the truth by item."""
    rows, truth = proof()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    invoke("draw", tmp_path / "rows.jsonl", "--n", 40, "--out", tmp_path / "audit.csv")
    key = read_rows(tmp_path / "audit.key.jsonl")
    return tmp_path, key, {r["item"]: truth[r["key"]] for r in key}


def sheet(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(folder, name, labels, change=lambda rows: rows):
    """Write the sheet back under another name with labels, as a spreadsheet would: LF ends, with or without the mark."""
    rows = change([{**r, "label": labels.get(r["item"], "")} for r in sheet(folder / "audit.csv")])
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def words(truth):
    return {item: "unsafe" if yes else "safe" for item, yes in truth.items()}


# --- drawing ----------------------------------------------------------------------------------------------------------------


STRATA = st.sampled_from(["a/x/near", "a/x/positive", "a/x/negative", "b/x/disputed", "b/x/ungraded"])


@given(st.dictionaries(STRATA, st.integers(1, 60), min_size=1), st.integers(10, 200))
def test_an_allocation_takes_two_of_each_no_more_than_there_are_and_exactly_n(sizes, n):
    taken = audit.allocate(sizes, n)
    assert sum(taken.values()) == min(n, sum(sizes.values()))
    assert all(min(2, sizes[name]) <= taken[name] <= sizes[name] for name in sizes)


def test_doubtful_rows_are_drawn_more_often_than_clear_ones():
    taken = audit.allocate({"a/x/near": 100, "a/x/negative": 100}, 40)
    assert taken == {"a/x/near": 30, "a/x/negative": 10}


def test_a_sample_too_small_for_its_strata_says_how_many_it_wants():
    with pytest.raises(UsageError, match="at least 4"):
        audit.allocate({"a/x/near": 9, "a/x/negative": 9}, 3)


def test_bands_follow_threshold_other_opinion_and_outcome():
    asked = audit.plan([row(gold=0.1, harm=0.1)], "gold")
    at = {"value": 0.8, "parts": {"threshold": 0.7}}
    cases = {
        "negative": row(gold=0.1, harm=0.1), "positive": row(gold=0.9, harm=0.9), "near": row(gold=at, harm=0.9),
        "disputed": row(gold=0.1, harm=0.9), "ungraded": row(gold=None, harm=0.9), "no answer": row(gold=0.9, outcome="empty"),
    }  # fmt: skip
    assert {audit.band(one, asked) for one in cases.values()} == set(cases)
    assert all(audit.band(one, asked) == name for name, one in cases.items())


def test_the_same_seed_draws_the_same_and_another_seed_another():
    rows, _ = proof()
    asked = audit.plan(rows, "gold")
    first, again, other = (audit.draw(order, asked, n=40, seed=s) for order, s in ((rows, 0), (rows[::-1], 0), (rows, 1)))
    assert first == again and {r["key"] for r in first} != {r["key"] for r in other}


def test_drawing_is_unbiased_whatever_is_oversampled():
    """The weighted mean over many draws is the true rate, although near and disputed rows come three times as often."""
    rows, truth = proof(40)
    asked, target = audit.plan(rows, "gold"), np.mean(list(truth.values()))
    found = [
        sum(truth[r["key"]] / r["probability"] for r in audit.draw(rows, asked, n=30, seed=s)) / len(rows) for s in range(150)
    ]
    plain = [np.mean([truth[r["key"]] for r in audit.draw(rows, asked, n=30, seed=s)]) for s in range(150)]
    assert abs(np.mean(found) - target) < 3 * np.std(found) / 150**0.5
    assert abs(np.mean(plain) - target) > 3 * np.std(plain) / 150**0.5


def test_rows_without_an_answer_are_not_shown_to_people(drawn):
    rows = [row(number=i, outcome="empty", answer="", gold=0.1) for i in range(5)] + [row(number=9, gold=0.2)]
    assert [r["id"] for r in audit.draw(rows, audit.plan(rows, "gold"), n=6)] == ["harmful-0009"]
    with pytest.raises(DataError, match="nothing to look at"):
        audit.draw(rows[:5], audit.plan(rows, "gold"), n=6)


def test_the_sheet_tells_nothing_of_arms_or_scores_and_is_not_in_their_order(drawn):
    folder, key, _ = drawn
    shown = sheet(folder / "audit.csv")
    assert list(shown[0]) == list(audit.COLUMNS) and all(
        r["label"] == "" and r["choices"] == "safe | unsafe | unsure" for r in shown
    )
    lines = read_rows(folder / "audit.jsonl")
    assert set().union(*lines) == set(audit.COLUMNS)
    assert [r["item"] for r in shown] == [r["item"] for r in lines] == [r["item"] for r in key]
    arms = [r["arm"] for r in key]
    assert arms not in (sorted(arms), sorted(arms, reverse=True))
    assert not {r["item"] for r in key} & {r["key"] for r in key}


def test_a_sheet_is_never_overwritten(drawn):
    folder, *_ = drawn
    with pytest.raises(UsageError, match="already there"):
        invoke("draw", folder / "rows.jsonl", "--n", 40, "--out", folder / "audit.csv")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "  =cmd", "\n=1", "＝1", "\r=1"])
def test_no_cell_is_a_formula(text):
    assert audit.cell(text).startswith("'") and inert(text) == f"'{text}"


@given(st.text(max_size=60))
def test_any_text_becomes_a_cell_that_utf_8_and_csv_hold(text):
    shown = audit.cell(text)
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow([shown])
    [[back]] = csv.reader(io.StringIO(written.getvalue(), newline=""), strict=True)
    assert back == shown and shown.encode("utf-8").decode() == shown


def test_a_megabyte_is_cut_in_the_sheet_and_whole_beside_it(tmp_path):
    rows = [row(number=i, answer="x" * 1_000_000 + str(i), gold=0.2) for i in range(2)]
    sheet_path, lines, _ = audit.write_audit(tmp_path / "a.csv", audit.draw(rows, audit.plan(rows, "gold"), n=2))
    assert sheet_path.stat().st_size < 100_000 < 2_000_000 < lines.stat().st_size


def test_unknown_graders_targets_and_runs_are_told(tmp_path):
    rows, _ = proof(5)
    with pytest.raises(UnknownName, match="did you mean 'gold'"):
        audit.plan(rows, "golt")
    with pytest.raises(UsageError, match="cannot be audited"):
        audit.plan(rows, "gold", target="unsave")
    with pytest.raises(DataError, match="no rows of an evaluation"):
        audit.run_rows(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no key"):
        audit.run_rows(tmp_path)


# --- merging ----------------------------------------------------------------------------------------------------------------


def test_labels_come_back_beside_the_run_and_correct_its_rates(drawn):
    folder, key, truth = drawn
    said = invoke("merge", folder / "rows.jsonl", fill(folder, "ann.csv", words(truth)), "--key", folder / "audit.key.jsonl")
    kept = read_rows(folder / "labels.jsonl")
    assert len(kept) == len(key) and {r["label"] for r in kept} == {"safe", "unsafe"}
    assert kept[0]["labels"] == {"ann": kept[0]["label"]} and kept[0]["probability"] == kept[0]["probability"]
    assert "prediction-powered" in said and "rl - base" in said
    assert invoke("rates", folder / "rows.jsonl").strip() in said


def test_corrected_rates_are_nearer_to_the_truth_than_what_the_judge_saw():
    rows, truth = proof(400, miss=0.4)
    asked = audit.plan(rows, "gold")
    labels = [{**r, "label": "unsafe" if truth[r["key"]] else "safe"} for r in audit.draw(rows, asked, n=400)]
    found = audit.rates(rows, labels, asked).arms
    for arm in ("base", "rl"):
        true = np.mean([truth[r["key"]] for r in rows if r["arm"] == arm])
        observed = abs(found[arm].observed.value - true)
        for estimate in (found[arm].corrected, found[arm].powered.estimate):
            assert abs(estimate.value - true) < observed / 2 and estimate.low <= true <= estimate.high


def test_the_judge_s_errors_on_an_oversampled_audit_are_those_of_the_whole_run():
    rows, truth = proof(500, miss=0.4)
    asked = audit.plan(rows, "gold")
    labels = [{**r, "label": "unsafe" if truth[r["key"]] else "safe"} for r in audit.draw(rows, asked, n=500)]
    everyone = judge_error.errors([audit.flagged(r, "gold") for r in rows], [float(truth[r["key"]]) for r in rows])
    pooled = audit.rates(rows, labels, asked).pooled
    assert pooled.sensitivity.value == pytest.approx(everyone.sensitivity.value, abs=0.06)
    assert pooled.sensitivity.estimate().low < everyone.sensitivity.value < pooled.sensitivity.estimate().high


def test_merging_again_adds_nothing_and_a_changed_label_is_added_and_counts(drawn):
    folder, key, truth = drawn
    labels = words(truth)
    arguments = ("merge", folder / "rows.jsonl", folder / "ann.csv", "--key", folder / "audit.key.jsonl")
    fill(folder, "ann.csv", labels)
    first = invoke(*arguments)
    assert "40 labelled items, 40 new" in first and "40 labelled items, 0 new" in invoke(*arguments)
    item = key[0]["item"]
    for label in ("unsafe" if labels[item] == "safe" else "safe", labels[item]):
        fill(folder, "ann.csv", {**labels, item: label})
        assert "40 labelled items, 1 new" in invoke(*arguments)
    assert len(read_rows(folder / "labels.jsonl")) == 42
    assert invoke("rates", folder / "rows.jsonl").strip() in first


def test_two_labellers_agree_as_far_as_they_do_and_a_tie_is_no_verdict(drawn):
    folder, key, truth = drawn
    labels = words(truth)
    other = {**labels, key[0]["item"]: "unsafe" if labels[key[0]["item"]] == "safe" else "safe", key[1]["item"]: "unsure"}
    merged = audit.merge(key, [fill(folder, "ann.csv", labels), fill(folder, "ben.csv", other)])
    assert merged.unresolved == (key[0]["item"],)
    by_item = {r["item"]: r["label"] for r in merged.rows}
    assert by_item[key[0]["item"]] == "unsure" and by_item[key[1]["item"]] == labels[key[1]["item"]]
    assert 0.8 < merged.agreement["Krippendorff's alpha"].value < 1
    assert 0.8 < merged.agreement["Cohen's kappa, ann and ben"].value < 1


def test_a_labeller_who_comes_later_stands_beside_the_first_and_replaces_only_their_own_labels(drawn, tmp_path):
    folder, key, truth = drawn
    labels, kept = words(truth), tmp_path / "labels.jsonl"
    audit.keep(kept, audit.merge(key, [fill(folder, "ann.csv", labels)]))
    later = audit.merge(key, [fill(folder, "ben.csv", dict.fromkeys(labels, "unsure"))], audit.read_rows(kept))
    audit.keep(kept, later)
    assert {r["item"]: r["label"] for r in later.rows} == labels
    assert all(r["labels"].keys() == {"ann", "ben"} for r in later.rows)
    again = audit.merge(key, [fill(folder, "ann.csv", dict.fromkeys(labels, "safe"))], audit.read_rows(kept))
    assert {r["label"] for r in again.rows} == {"safe"}


def test_a_sheet_that_a_spreadsheet_wrote_with_semicolons_and_capitals_is_read(drawn):
    folder, key, truth = drawn
    path = fill(folder, "ann.csv", words(truth))
    rows = sheet(path)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, [name.capitalize() for name in rows[0]], delimiter=";")
        writer.writeheader()
        writer.writerows({name.capitalize(): value for name, value in row.items()} for row in rows)
    assert len(audit.merge(key, [path]).rows) == len(key)


def test_missing_labels_are_told_and_the_others_stand_for_them(drawn):
    folder, key, truth = drawn
    labels = dict(list(words(truth).items())[:-3])
    merged = audit.merge(key, [fill(folder, "ann.csv", labels, lambda rows: rows[:-1])])
    assert set(merged.unlabelled) == {r["item"] for r in key} - labels.keys() and len(merged.rows) == 37
    rows = audit.run_rows(folder / "rows.jsonl")
    found = audit.rates(rows, merged.rows, audit.plan(rows, "gold"))
    assert found.labels == 37


BROKEN = {
    "label is 'unsave'.*did you mean 'unsafe'": lambda rows: [{**rows[0], "label": "unsave"}, *rows[1:]],
    "was not drawn": lambda rows: [{**rows[0], "item": "zzzz"}, *rows[1:]],
    r"stands at .*:\d+ already": lambda rows: [*rows, rows[0]],
    "one column sorted alone": lambda rows: [
        {**r, "item": i} for r, i in zip(rows, sorted((r["item"] for r in rows), reverse=True), strict=True)
    ],
    "no column 'item'": lambda rows: [{k: v for k, v in r.items() if k != "item"} for r in rows],
    "not one row has a label": lambda rows: [{**r, "label": " "} for r in rows],
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_cannot_be_right_is_refused_by_line_and_nothing_is_written(drawn, message):
    folder, _, truth = drawn
    path = fill(folder, "ann.csv", words(truth), BROKEN[message])
    with pytest.raises(DataError, match=message):
        invoke("merge", folder / "rows.jsonl", path, "--key", folder / "audit.key.jsonl")
    assert not (folder / "labels.jsonl").exists()


def test_a_text_a_spreadsheet_changed_is_told_and_its_label_kept(drawn):
    folder, key, truth = drawn
    merged = audit.merge(key, [fill(folder, "ann.csv", words(truth), lambda rows: [{**rows[0], "answer": "cut"}, *rows[1:]])])
    assert merged.changed == (key[0]["item"],) and len(merged.rows) == len(key)


def test_escaped_and_odd_texts_come_back_as_themselves(tmp_path):
    odd = ["=SUM(1)", "\ud800", "a\r\nb", "\x00", "‮right", "​", "- item\n- item", "🙂", "y" * 40_000]
    rows = [row(number=i, answer=text, gold=0.2) for i, text in enumerate(odd)]
    key = audit.draw(rows, audit.plan(rows, "gold"), n=len(odd))
    audit.write_audit(tmp_path / "audit.csv", key)
    merged = audit.merge(key, [fill(tmp_path, "ann.csv", {r["item"]: "safe" for r in key})])
    assert len(merged.rows) == len(odd) and not merged.changed


def test_labels_may_come_back_as_json_lines(drawn):
    folder, key, truth = drawn
    labels = words(truth)
    rows = [{**r, "label": labels[r["item"]]} for r in read_rows(folder / "audit.jsonl")]
    (folder / "ann.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert len(audit.merge(key, [folder / "ann.jsonl"]).rows) == len(key)


def test_labels_of_another_run_are_refused(drawn):
    _, key, _ = drawn
    rows, _ = proof(arms=("other",))
    with pytest.raises(DataError, match="rows this run does not have"):
        audit.rates(rows, [{**r, "label": "safe"} for r in key], audit.plan(rows, "gold"))


def test_rows_graded_anew_since_the_draw_are_noticed(drawn):
    folder, key, _ = drawn
    rows = audit.run_rows(folder / "rows.jsonl")
    for one in rows:
        one["scores"]["gold"]["value"] = 1 - one["scores"]["gold"]["value"]
    with pytest.raises(DataError, match="graded anew"):
        audit.rates(rows, [{**r, "label": "safe"} for r in key], audit.plan(rows, "gold"))


def test_labels_without_a_design_count_as_a_random_sample_of_their_arm():
    rows, truth = proof(100)
    labels = [{"key": r["key"], "label": "unsafe" if truth[r["key"]] else "safe"} for r in random.Random(0).sample(rows, 80)]
    found = audit.rates(rows, labels, audit.plan(rows, "gold"))
    true = np.mean([truth[r["key"]] for r in rows if r["arm"] == "base"])
    assert found.labels == 80 and found.arms["base"].powered.estimate.low < true < found.arms["base"].powered.estimate.high


def test_rates_are_corrected_by_a_calibration_file_too(tmp_path):
    rows, truth = proof(100)
    judged = [
        calibrate.Judged(
            r["scores"]["gold"]["value"], r["scores"]["gold"]["value"] >= 0.5, truth[r["key"]], r["group"], arm=r["arm"]
        )
        for r in rows
    ]
    curve, limit, figures = calibrate.calibrate(judged, by=["arm"])
    made = calibrate.Calibration("gold", "id", "", "unsafe", True, curve, limit, "youden", figures, {"n": len(rows)})
    calibrate.write(tmp_path / "c.json", made)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    said = invoke("rates", tmp_path / "rows.jsonl", "--calibration", tmp_path / "c.json")
    assert "(this arm)" in said and "no labels" in said
    (tmp_path / "run.json").write_text(json.dumps({"graders": {"gold": {"identity": "another", "role": "gold"}}}))
    with pytest.raises(DataError, match="identity another"):
        invoke("rates", tmp_path / "rows.jsonl", "--calibration", tmp_path / "c.json")


def test_rows_can_be_flagged_anew_at_the_calibrated_threshold(tmp_path):
    """The judge misses half at its own threshold and ranks perfectly: flagged anew, what it sees is the truth."""
    rows, truth = proof(150, miss=0.5)
    for one in rows:
        value = one["scores"]["gold"]["value"]
        one["scores"]["gold"]["value"] = value if truth[one["key"]] == (value >= 0.5) else 0.47
    values = [r["scores"]["gold"]["value"] for r in rows]
    judged = [calibrate.Judged(v, v >= 0.5, truth[r["key"]], r["group"]) for v, r in zip(values, rows, strict=True)]
    curve, limit, figures = calibrate.calibrate(judged)
    made = calibrate.Calibration("gold", "id", "", "unsafe", True, curve, limit, "youden", figures, {"n": len(rows)})
    asked = audit.plan(rows, "gold")
    shipped, anew = (audit.rates(rows, [], asked, made, at=at).arms["base"] for at in ("shipped", "calibrated"))
    true = np.mean([truth[r["key"]] for r in rows if r["arm"] == "base"])
    assert shipped.observed.value < 0.7 * true and anew.observed.value == pytest.approx(true)
    assert anew.judge.sensitivity.value > 0.95 > shipped.judge.sensitivity.value
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UsageError, match="together with --calibration"):
        invoke("rates", tmp_path / "rows.jsonl", "--at", "calibrated")


def test_a_judge_that_is_not_informative_corrects_nothing_and_labels_still_do(tmp_path):
    rows, truth = proof(100, miss=1.0)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    labels = [{"key": r["key"], "label": "unsafe" if truth[r["key"]] else "safe"} for r in rows[::2]]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in labels))
    said = invoke("rates", tmp_path / "rows.jsonl")
    base = next(line for line in said.splitlines() if line.startswith("base"))
    assert "judge not informative" in base and "0.0% [0.0%" in base and base.count("%") > 9


def test_an_arm_that_says_nothing_is_not_corrected_upwards():
    """A judge that flags a tenth of what is safe is not held against rows without an answer, which nobody can misjudge."""
    rows, truth = proof(200, arms=("base",))
    silent = [row("base", number=1000 + i, outcome="empty", answer="", gold=0.1) for i in range(200)]
    labels = [{"key": r["key"], "label": "unsafe" if truth[r["key"]] else "safe"} for r in rows[::2]]
    alone = audit.rates(rows, labels, audit.plan(rows, "gold")).arms["base"]
    both = audit.rates(rows + silent, labels, audit.plan(rows, "gold")).arms["base"]
    for estimate in (lambda r: r.observed, lambda r: r.corrected):
        assert estimate(both).value == pytest.approx(estimate(alone).value / 2)
    assert both.corrected.n == 400


def test_prompts_of_two_suites_that_share_ids_are_as_many_prompts_as_under_ids_of_their_own():
    rows, truth = proof()
    named = {r["key"]: ("ab"[i % 2], str(i // 2 % 30)) for i, r in enumerate(rows)}  # (suite, id) in each arm
    shared = [{**r, "suite": named[r["key"]][0], "id": named[r["key"]][1], "group": named[r["key"]][1]} for r in rows]
    apart = [{**r, "id": r["suite"] + r["id"], "group": ""} for r in shared]
    labels = [{"key": key, "label": "unsafe" if yes else "safe"} for key, yes in truth.items()][::3]
    told, wanted = (audit.rates(each, labels, audit.plan(each, "gold")) for each in (shared, apart))
    assert told == wanted and told.differences["rl", "base"].estimate.n == 60


def test_labels_drawn_for_another_grader_are_left_out(drawn):
    folder, key, _ = drawn
    rows = audit.run_rows(folder / "rows.jsonl")
    labels = [{**r, "label": "safe"} for r in key]
    assert audit.rates(rows, [*labels, {**labels[0], "grader": "harm", "label": "unsafe"}], audit.plan(rows, "gold")).labels == 40
    assert audit.rates(rows, labels, audit.plan(rows, "harm")).labels == 0


def test_refusals_are_audited_in_their_own_words(tmp_path):
    rows = [row(kind="benign", number=i, over_refusal=0.9 if i % 4 == 0 else 0.1) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "audit.csv"
    invoke("draw", tmp_path / "rows.jsonl", "--grader", "over-refusal", "--target", "refusal", "--n", 20, "--out", out)
    labels = {r["item"]: "refused" if r["value"] > 0.5 else "answered" for r in read_rows(tmp_path / "audit.key.jsonl")}
    said = invoke("merge", tmp_path / "rows.jsonl", fill(tmp_path, "ann.csv", labels), "--key", tmp_path / "audit.key.jsonl")
    assert "refusal by over-refusal, 20 labels" in said and "25.0%" in said
    assert {r["refusal"] for r in read_rows(tmp_path / "labels.jsonl")} == {"refused", "answered"}


# --- a real run -------------------------------------------------------------------------------------------------------------


def test_a_real_run_goes_round_from_draw_to_rates(tmp_path):
    """Labels are made up (the proxy's opinion), so only the way is tested, not a figure."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("rows.jsonl.gz", "run.json"):
        (run / name).write_bytes((RESULTS / name).read_bytes())
    said = invoke("draw", run, "--n", 80, "--out", tmp_path / "audit.csv")
    assert "80 of 208 rows" in said and "grader 'gold'" in said
    key = read_rows(tmp_path / "audit.key.jsonl")
    assert Counter(r["arm"] for r in key).keys() == {"base", "sft", "rl", "hybrid"}
    scored = {r["key"]: r["scores"]["harm"]["value"] for r in audit.run_rows(run)}
    labels = {r["item"]: "unsafe" if (scored[r["key"]] or 0) > 0.5 else "safe" for r in key}
    ann, ben = (fill(tmp_path, name, labels) for name in ("ann.csv", "ben.csv"))
    said = invoke("merge", run, ann, ben, "--key", tmp_path / "audit.key.jsonl")
    assert "alpha: 1.00" in said and "hybrid - base" in said and "unsafe by gold, 80 labels" in said
    assert "base" in invoke("rates", run)


# --- agreement --------------------------------------------------------------------------------------------------------------


def test_cohen_s_kappa_gives_the_textbook_table():
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, expected 0.5, kappa 0.4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = cohen_kappa([a for a, _ in pairs], [b for _, b in pairs])
    assert found.value == pytest.approx(0.4) and found.low < 0.4 < found.high


def test_krippendorff_s_alpha_gives_the_example_of_his_paper():
    """Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, missing data, nominal: 0.743."""
    observers = (
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    )
    found = krippendorff_alpha(list(zip(*observers, strict=True)))
    assert found.value == pytest.approx(0.743, abs=5e-4) and found.n == 11


def test_agreement_on_one_label_throughout_is_not_defined():
    assert cohen_kappa(["a"] * 9, ["a"] * 9).n == 0 and krippendorff_alpha([["a", "a"]] * 9).n == 0
    assert krippendorff_alpha([["a", None]] * 9).n == 0


def test_labels_at_random_agree_by_chance_only():
    rng = random.Random(0)
    found = cohen_kappa(rng.choices("ab", k=400), rng.choices("ab", k=400))
    assert found.low < 0 < found.high
