"""Finished evaluations read back and put together: what is the same prompt, and what would make a difference not the model's."""

import gzip
import json

import pytest
from synthetic import row, run_facts, write_run

from temper import audit, files
from temper.comparison import compare_runs
from temper.errors import DataError, UnknownName, UsageError
from temper.prove.compare import compare
from temper.prove.finished import finished, together
from temper.prove.interop.export import stored
from temper.report.comparison import section
from temper.report.read import read_run

DECODING = {"max_new_tokens": 256, "temperature": 0.7, "top_p": 1.0}


def evaluation(folder, rows, *, prove=DECODING, judge="j1", **facts):
    """A folder as `temper prove` leaves it, with these rows."""
    known = run_facts()
    graders = {"gold": {"identity": judge, "role": "gold", "better": "low"}, "refusal": {"identity": "r", "role": "monitor"}}
    arms = {r["arm"]: [] for r in rows}
    write_run(
        folder,
        {arm: [r for r in rows if r["arm"] == arm] for arm in arms},
        {**known, "arms": arms, "graders": graders, "recipe": {"prove": prove}, **facts},
        held_out=(),
    )
    for done in folder.glob("evals/*"):
        files.seal(done, {})
    return folder


def harmful(flags, arm="model", names=None, **kwargs):
    return [
        {**row(arm, "harmful", i, gold=float(u), **kwargs), **({"id": names[i], "group": names[i]} if names else {})}
        for i, u in enumerate(flags)
    ]


def joined(*folders, **kwargs):
    return together([of for folder in folders for of in finished(folder).values()], **kwargs)


def unsafe(found):
    return next(p for p in compare(found.evidence.rows) if p.metric == "unsafe")


def test_a_run_its_arm_its_results_and_a_bare_rows_file_give_the_same_rows(tmp_path):
    run = evaluation(tmp_path / "run", [*harmful([1, 0], "base"), *harmful([0, 0], "hybrid")])
    packed = tmp_path / "results"
    packed.mkdir()
    lines = "".join(json.dumps(r) + "\n" for of in finished(run).values() for r in of.rows)
    (packed / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert list(finished(run)) == ["base", "hybrid"]
    assert list(finished(f"{run}@hybrid")) == ["hybrid"]
    assert {arm: of.rows for arm, of in finished(packed).items()} == {arm: of.rows for arm, of in finished(run).items()}


def test_prompts_with_other_ids_are_matched_by_what_they_ask(tmp_path):
    one = evaluation(tmp_path / "a", harmful([1, 1, 0, 0]))
    two = evaluation(tmp_path / "b", harmful([0, 1, 0, 0], names=["x1", "x2", "x3", "x4"]))
    found = joined(one, two)
    pair = unsafe(found)
    assert (pair.n, pair.b, pair.c) == (4, 1, 0)
    assert found.matched["b"] == {"prompts": 4, "shared": 4, "by_content": 4}
    assert {r["group"] for r in found.evidence.rows["b"]} == {r["group"] for r in found.evidence.rows["a"]}


def test_one_id_with_two_texts_is_two_prompts(tmp_path):
    one = evaluation(tmp_path / "a", harmful([1, 1]))
    other = [r | {"prompt": "Something else entirely."} if r["id"].endswith("1") else r for r in harmful([1, 0])]
    found = joined(one, evaluation(tmp_path / "b", other))
    assert unsafe(found).n == 1
    assert any("1 of 2 prompts were asked of no other arm" in w for w in found.warnings)


def test_an_arm_that_a_changed_recipe_no_longer_names_is_left_out_as_on_the_page_in_audits_and_in_exports(tmp_path):
    run = evaluation(tmp_path / "run", [*harmful([1], "base"), *harmful([0], "old")])
    facts = files.read_json(run / "run.json")
    files.write_json(run / "run.json", {**facts, "arms": {"base": []}})
    assert list(finished(run)) == list(stored(run).rows) == list(read_run(run).rows) == ["base"]
    assert {r["arm"] for r in audit.run_rows(run)} == {"base"}


def test_a_judge_that_only_run_json_names_is_the_judge_of_every_reader(tmp_path):
    run = evaluation(tmp_path / "run", harmful([1]))
    facts = files.read_json(run / "run.json")
    files.write_json(run / "run.json", {**facts, "graders": {"guard-x": facts["graders"]["gold"]}})
    (run / "summary.json").unlink()
    assert {finished(run)["model"].judge, stored(run).gold, audit.judge_of(run), read_run(run).gold} == {"guard-x"}


def test_one_evaluation_alone_is_not_warned_of_having_no_pairs(tmp_path):
    assert not [w for w in joined(evaluation(tmp_path / "a", harmful([1, 0]))).warnings if "no other arm" in w]


def test_the_same_text_twice_in_a_suite_stays_two_prompts(tmp_path):
    def twice(flags, names):
        return [r | {"prompt": "The same request."} for r in harmful(flags, names=names)]

    one, two = (
        evaluation(tmp_path / "a", twice([1, 0], ["p", "q"])),
        evaluation(tmp_path / "b", twice([1, 0], ["q", "z"])),
    )
    found = joined(one, two)
    assert unsafe(found).n == 2
    # q keeps its name; the other one takes what is left
    assert {r["id"]: r["scores"]["gold"]["value"] for r in found.evidence.rows["b"]} == {"q": 1.0, "p": 0.0}


def test_a_rewritten_prompt_is_not_the_plain_one(tmp_path):
    one = evaluation(tmp_path / "a", harmful([1, 1]))
    two = evaluation(tmp_path / "b", [r | {"how": ["rewrite:shots=3"], "of": "harm"} for r in harmful([0, 0])])
    found = joined(one, two)
    assert not compare(found.evidence.rows)
    assert found.matched["a"]["shared"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prove": {**DECODING, "max_new_tokens": 512}}, "token cap differs: 256 for a, 512 for b"),
        ({"prove": {**DECODING, "temperature": 0.0}}, "temperature differs: 0.7 for a, 0.0 for b"),
        ({"prove": {"max_new_tokens": 256, "temperature": 0.7}}, "top-p is not recorded for b; it is 1.0 for a"),
        ({"judge": "j2"}, "identity of the judge differs: j1 for a, j2 for b"),
    ],
)
def test_a_setting_that_differs_or_is_unknown_is_warned_about(tmp_path, change, said):
    same = joined(evaluation(tmp_path / "a", harmful([1, 0])), evaluation(tmp_path / "b", harmful([1, 0])))
    assert same.warnings == ()
    other = joined(tmp_path / "a", evaluation(tmp_path / "c" / "b", harmful([1, 0]), **change))
    assert other.warnings == (said,)


def test_arms_of_one_run_are_not_warned_about_their_own_settings(tmp_path):
    run = evaluation(tmp_path / "a", [*harmful([1, 0], "base"), *harmful([1, 0], "sft")], prove={})
    assert joined(run).warnings == ()


def test_an_unfinished_evaluation_is_said_to_be_one(tmp_path):
    one, two = evaluation(tmp_path / "a", harmful([1])), evaluation(tmp_path / "b", harmful([1]))
    next(two.glob("evals/*/DONE")).unlink()
    assert joined(one, two).warnings == ("b: not finished; its rows so far are compared",)


def test_another_judges_column_is_not_taken_for_the_judges(tmp_path):
    one = evaluation(tmp_path / "a", harmful([1, 0]))
    two = evaluation(tmp_path / "b", [r | {"scores": {"theirs": r["scores"]["gold"]}} for r in harmful([1, 0])])
    found = joined(one, two)
    assert not [p for p in compare(found.evidence.rows) if p.metric == "unsafe"]
    assert any(w.startswith("b: nothing graded by gold") for w in found.warnings)
    with pytest.raises(UnknownName, match="theirs"):
        joined(one, two, gold="their")


def test_targets_that_differ_are_warned_about(tmp_path):
    def solved(target):
        return [row("model", "reasoning", 0, verify=1.0) | {"target": target}]

    found = joined(evaluation(tmp_path / "a", solved("4")), evaluation(tmp_path / "b", solved("5")))
    assert "1 prompts have another target" in found.warnings[-1]


def test_what_is_no_evaluation_says_what_was_wanted(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        finished(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no rows of an evaluation"):
        finished(tmp_path / "empty")
    run = evaluation(tmp_path / "run", harmful([1]))
    with pytest.raises(UnknownName, match="'model'"):
        finished(f"{run}@modle")
    with pytest.raises(UsageError, match="at least two"):
        compare_runs([str(run)], tmp_path / "out")
    broken = next(run.glob("evals/*/rows.jsonl"))
    files.append_rows(broken, [{"suite": "harm", "arm": "model", "id": "x"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no key, sample, class, outcome, scores, prompt, answer"):
        finished(run)


def test_a_comparison_is_itself_a_finished_evaluation_with_a_report(tmp_path):
    one, two = evaluation(tmp_path / "a", harmful([1, 1, 0, 0])), evaluation(tmp_path / "b", harmful([0, 0, 0, 0]))
    out = compare_runs([str(one), str(two)], tmp_path / "out", command="temper compare")
    assert len(files.read_json(out / "summary.json")["signatures"]["found"]) == 7
    again = finished(out)
    assert list(again) == ["a", "b"] and again["b"].whole
    summary = files.read_json(out / "summary.json")
    pair = next(p for p in summary["pairs"] if p["metric"] == "unsafe")
    assert (pair["base"], pair["arm"], pair["difference"]) == ("a", "b", -0.5)
    assert summary["comparison"]["warnings"] == [] and (out / "report.html").is_file()
    with pytest.raises(UsageError, match="not empty"):
        compare_runs([str(one), str(two)], out)


def test_labels_of_each_evaluation_correct_its_own_arm(tmp_path):
    """A judge that misses half of b's unsafe answers and none of a's: uncorrected b looks safer, corrected it does not."""
    n = 200
    truth = [i % 2 for i in range(n)]
    seen = {"a": truth, "b": [int(t and i % 4 == 1) for i, t in enumerate(truth)]}
    for name, flags in seen.items():
        folder = evaluation(tmp_path / name, harmful(flags))
        rows = finished(folder)["model"].rows
        labels = [{"key": r["key"], "arm": "model", "label": "unsafe" if truth[i] else "safe"} for i, r in enumerate(rows)]
        files.append_rows(folder / "labels.jsonl", labels)
    out = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out")
    corrected = files.read_json(out / "summary.json")["comparison"]["corrected"]
    observed, freed = ({arm: of[name]["value"] for arm, of in corrected["arms"].items()} for name in ("observed", "corrected"))
    assert observed == {"a": 0.5, "b": 0.25}
    assert freed == pytest.approx({"a": 0.5, "b": 0.5})
    assert corrected["arms"]["b"]["own"] and corrected["arms"]["b"]["sensitivity"]["value"] == 0.5
    shown = section(read_run(tmp_path / "out"))
    assert shown.lead.startswith("The evaluations record the same") and shown.blocks[-1].rows[1][1].startswith("25.0")
    assert shown.blocks[0].rows[0][-1] == "200 of 200"
    low, high = (corrected["arms"]["b"]["corrected"][end] for end in ("low", "high"))
    assert high - low > corrected["arms"]["b"]["observed"]["high"] - corrected["arms"]["b"]["observed"]["low"]


def test_only_arms_of_one_run_can_game_their_proxy(tmp_path):
    """Gold says the same of both, the proxy likes the second better: gaming in one run, nothing between two models."""
    base = harmful([1] * 100 + [0] * 100, "base", harm=0.9)
    arm = harmful([1] * 100 + [0] * 100, "arm", harm=0.1)
    run = evaluation(tmp_path / "run", [*base, *arm])
    one, two = (evaluation(tmp_path / name, rows) for name, rows in (("one", base), ("two", arm)))
    for sources, said in (([run], "gamed"), ([one, two], "inconclusive")):
        out = compare_runs([str(source) for source in sources], tmp_path / f"out-{said}")
        assert [v["verdict"] for v in files.read_json(out / "summary.json")["verdicts"]] == [said]


def test_an_evaluation_beside_itself_is_said_to_be_one(tmp_path):
    run = evaluation(tmp_path / "run", harmful([1, 0]))
    assert joined(run, f"{run}@model").warnings == ("run.2 is run.1 once more: their differences are zero by themselves",)
    assert joined(run, evaluation(tmp_path / "other", harmful([1, 0]))).warnings == ()
