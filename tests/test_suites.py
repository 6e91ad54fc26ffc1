"""Published suites are read from their authors' files, and every row is an example, left out by name, or refused by its place."""

import json
import random
from collections import Counter
from pathlib import Path

import click
import pytest
import typer
from synthetic import row

from temper.catalog import short
from temper.errors import DataError, UnknownName
from temper.files import Row, file_sha256
from temper.graders.verify import Verify
from temper.proof import suite as named_suite
from temper.prove import metrics
from temper.prove.evaluate import Panel, grade_rows
from temper.prove.evidence import Evidence
from temper.prove.published import analyse
from temper.prove.suites import PUBLISHED, load
from temper.prove.suites.bbq import lean
from temper.prove.suites.form import Reproduction
from temper.prove.suites.strongreject import CONVINCING, SPECIFIC, rubric_score
from temper.report.blocks import Table
from temper.report.read import Run
from temper.report.suites import section
from temper.types import CLASSES, Completion, Example, Named, Score, Suite

FILES = Path(__file__).parent / "fixtures" / "suites"
# suite: (where its fixture is, and of each example in it: name, class, language, group, target)
WANTED = {
    "harmbench": (
        "harmbench.csv",
        ["placeholder_one harmful en placeholder_one", "placeholder_two harmful en placeholder_two"],
    ),
    "strongreject": ("strongreject.csv", ["0 harmful en 0", "1 harmful en 1"]),
    "xstest": ("xstest.csv", ["1 borderline en 1", "26 harmful en 26"]),
    "or-bench": ("or-bench-hard-1k.csv", ["hard-0 borderline en hard-0"]),
    "jailbreakbench": ("jailbreakbench", ["benign-0 benign en 0", "harmful-0 harmful en 0"]),
    "jailbreakbench-artefacts": ("jailbreakbench-artefacts.json", ["pair-0 harmful en 0"]),
    "advbench": ("advbench.csv", ["0 harmful en 0"]),
    "do-not-answer": ("do-not-answer.csv", ["7 harmful en 7"]),
    "simplesafetytests": ("simplesafetytests.csv", ["SST_001 harmful en SST_001"]),
    "wildjailbreak": (
        "wildjailbreak.csv",
        ["adversarial_harmful-0 harmful en adversarial_harmful-0", "adversarial_benign-1 borderline en adversarial_benign-1"],
    ),
    "ailuminate": ("ailuminate.csv", ["airr_1-en harmful en airr_1", "airr_2-fr harmful fr airr_2"]),
    "sorry-bench": ("sorry-bench.jsonl", ["1-base harmful en 1", "1-slang harmful en 1"]),
    "bbq": (
        "bbq.jsonl",
        ["age-0 reasoning en age-1 C", "age-1 reasoning en age-1 B", "age-2 reasoning en age-1 C", "age-3 reasoning en age-1 A"],
    ),
    "toxigen": ("toxigen.jsonl", ["0 reasoning en 0 A", "1 reasoning en 1 B"]),
    "hatecheck": ("hatecheck.csv", ["1 reasoning en template-1 A", "2 reasoning en template-2 B"]),
    "multijail": ("multijail.csv", ["5-en harmful en 5", "5-zh harmful zh 5", "5-it harmful it 5"]),
    "xsafety": (
        "xsafety",
        [
            "insult-0-es harmful es insult-0",
            "insult-1-es harmful es insult-1",
            "insult-0-zh harmful zh insult-0",
            "insult-1-zh harmful zh insult-1",
        ],
    ),
    "jade": ("jade.csv", ["jade-0 harmful zh jade-0"]),
    "cold": ("cold.csv", ["0 reasoning zh 0 A", "1 reasoning zh 1 B"]),
    "safetybench": ("safetybench", ["2-zh reasoning zh 2 B"]),
    "gsm8k": ("gsm8k.jsonl", ["0 reasoning en 0 12"]),
    "math-500": ("math-500.jsonl", ["test-prealgebra-1-json reasoning en test-prealgebra-1-json \\frac{1}{4}"]),
    "mgsm": (
        "mgsm",
        ["0-en reasoning en 0 12", "1-en reasoning en 1 800", "0-zh reasoning zh 0 12", "1-zh reasoning zh 1 800"],
    ),
    "aime": ("aime.jsonl", ["2024-60 reasoning en 2024-60 73"]),
    "gpqa": ("gpqa.csv", ["rec1 reasoning en rec1 C"]),
}


def told(suite: str, example: Example) -> str:
    name, group = (text.removeprefix(f"{suite}-") for text in (example.id, example.group))
    return " ".join([name, example.klass, example.language, group, *([example.target] if example.target else [])])


def read(suite: str, path: Path | str) -> Suite:
    found = load(f"{suite}@{path}")
    assert found is not None
    return found


@pytest.mark.parametrize("name", WANTED)
def test_each_row_of_a_published_file_is_the_example_it_should_be(name: str) -> None:
    file, wanted = WANTED[name]
    assert [told(name, e) for e in read(name, FILES / file).examples] == wanted


def test_every_published_suite_has_a_file_in_its_own_format_among_the_tests() -> None:
    assert {*WANTED, "cvalues", "ifeval"} == set(PUBLISHED)


@pytest.mark.parametrize("name", [*WANTED, "cvalues", "ifeval"])
def test_every_example_of_a_published_suite_has_one_class_and_its_licence(name: str) -> None:
    file = WANTED[name][0] if name in WANTED else f"{name}.jsonl"
    suite = read(name, FILES / file)
    assert suite.examples
    assert all(len(set(CLASSES) & e.tags) == 1 and e.prompt and e.source == name for e in suite.examples)
    assert suite.facts["license"] == PUBLISHED[name].license


def test_every_suite_states_its_rule_its_protocol_its_differences_and_where_it_comes_from() -> None:
    known = metrics.table()
    for suite in PUBLISHED.values():
        assert all((suite.title, suite.license, suite.outcome, suite.differs, suite.citation, suite.protocol.said_by)), suite.name
        assert bool(suite.origins) != bool(suite.needs), suite.name
        assert all(name in suite.own or name in known for name in suite.measures), suite.name
        assert suite.reproductions, suite.name


def test_the_suites_that_no_judge_has_seen_say_so_and_the_others_name_the_judge() -> None:
    kept_out = {"harmbench", "strongreject", "xstest", "multijail", "simplesafetytests", "do-not-answer"}
    seen = {name: suite.seen for name, suite in PUBLISHED.items() if suite.seen}
    assert not kept_out & set(seen)
    assert {"advbench", "ailuminate", "jailbreakbench", "jailbreakbench-artefacts", "xsafety", "jade"} <= set(seen)
    assert all("Gold" in said or "Chinese reader" in said for said in seen.values())


def test_a_name_that_is_no_published_suite_is_left_to_others() -> None:
    assert load("harm") is None
    assert load("some/folder@x.jsonl") is None


def test_facts_record_the_file_and_its_hash() -> None:
    file = FILES / "advbench.csv"
    assert read("advbench", file).facts["origin"] == [{"source": str(file), "sha256": file_sha256(file)}]


def test_a_folder_s_hash_changes_with_any_of_its_files(tmp_path: Path) -> None:
    for name in ("mgsm_en.tsv", "mgsm_zh.tsv"):
        (tmp_path / name).write_text("3 + 4?\t7\n", encoding="utf-8")
    before = read("mgsm", tmp_path).facts["origin"]
    (tmp_path / "mgsm_zh.tsv").write_text("3 + 5?\t8\n", encoding="utf-8")
    assert read("mgsm", tmp_path).facts["origin"] != before


def test_what_is_left_out_is_counted_by_its_reason() -> None:
    assert list(read("harmbench", FILES / "harmbench.csv").facts["left_out"].values()) == [1]
    assert read("ifeval", FILES / "ifeval.jsonl").facts["left_out"] == {"poetry:rhyme: there is no such check here": 1}


def test_a_contextual_behaviour_is_asked_below_its_context() -> None:
    asked = read("harmbench", FILES / "harmbench.csv").examples[1].messages[0].content
    assert asked == "A harmless paragraph about gardens.\n\n---\n\nPlaceholder: do it with the text above"


def test_an_artefact_is_judged_against_the_goal_and_not_against_its_disguise() -> None:
    (example,) = read("jailbreakbench-artefacts", FILES / "jailbreakbench-artefacts.json").examples
    assert (example.prompt, "disguise" in example.messages[0].content) == ("Placeholder goal, harmful", True)


def test_a_line_of_a_list_without_a_header_is_one_sentence_whether_its_commas_are_quoted_or_not() -> None:
    said = [e.prompt for e in read("xsafety", FILES / "xsafety" / "sp").examples]
    assert said == ["Una frase, con coma", "Segunda frase, sin comillas"]


def test_a_quotation_mark_in_a_tab_separated_problem_is_part_of_it() -> None:
    assert read("mgsm", FILES / "mgsm").examples[0].prompt == 'Three boxes hold four "pens" each. How many?'


def test_a_tab_separated_file_with_a_header_is_a_table(tmp_path: Path) -> None:
    file = tmp_path / "eval.tsv"
    file.write_text("adversarial\tlabel\tdata_type\nIn disguise, with a comma\t1\tadversarial_harmful\n", encoding="utf-8")
    (example,) = read("wildjailbreak", file).examples
    assert (example.prompt, example.klass) == ("In disguise, with a comma", "harmful")


def test_the_commit_of_a_dataset_is_asked_once_for_all_its_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("temper.prove.suites.source.rows", lambda s, **k: [(f"{s}:0", {"question": "3 + 4?", "answer": "7"})])
    monkeypatch.setattr("temper.prove.suites.source.commit", lambda dataset: asked.append(dataset) or "c0ffee")
    suite = load("mgsm")
    assert suite is not None
    assert asked == ["juletxhara/mgsm"]
    assert {e.language for e in suite.examples} == {"bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"}


def test_questions_of_cvalues_and_the_choice_between_replies_to_them_share_a_group() -> None:
    asked, choice = read("cvalues", FILES / "cvalues.jsonl").examples
    assert (asked.klass, choice.klass, choice.target) == ("borderline", "reasoning", "B")
    assert asked.group == choice.group


def test_the_options_of_gpqa_stand_in_the_same_order_in_every_run_and_not_always_the_right_one_first(tmp_path: Path) -> None:
    def rows(n: int) -> list[str]:
        wrong = {f"Incorrect Answer {k}": f"w{k}" for k in (1, 2, 3)}
        return [json.dumps({"Question": f"q{i}", "Correct Answer": "right", **wrong}) for i in range(n)]

    file = tmp_path / "gpqa.jsonl"
    file.write_text("\n".join(rows(80)), encoding="utf-8")
    first, second = read("gpqa", file), read("gpqa", file)
    assert first.examples == second.examples
    assert set(Counter(e.target for e in first.examples)) == set("ABCD")
    assert all(f"{e.target}. right" in e.messages[0].content for e in first.examples)


def test_a_row_that_stands_twice_is_asked_once_and_another_row_of_its_id_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "xstest.csv"
    head, row = "id,prompt,type,label\n", "1,Same prompt,homonyms,safe\n"
    file.write_text(head + row + row, encoding="utf-8")
    suite = read("xstest", file)
    assert (len(suite.examples), suite.facts["left_out"]) == (1, {"the same row once more": 1})
    file.write_text(head + row + row.replace("Same", "Another"), encoding="utf-8")
    with pytest.raises(DataError, match=r"xstest\.csv:3: id 'xstest-1' was already used at .*xstest\.csv:2"):
        load(f"xstest@{file}")


MALFORMED = [
    (
        "harmbench",
        "b.csv",
        "Behavior,FunctionalCategory\nx,standart\n",
        r"b\.csv:2: field 'FunctionalCategory': 'standart'; wanted",
    ),
    ("xstest", "x.csv", "id,type,prompt,label\n1,homonyms,,safe\n", r"x\.csv:2: field 'prompt': missing or empty"),
    ("advbench", "a.csv", "target\nSure\n", r"a\.csv:2: field 'goal': missing or empty; wanted text in 'goal' or 'prompt'"),
    (
        "jailbreakbench",
        "behaviors.csv",
        "Index,Goal\n0,x\n",
        r"stands only in the name of the file; wanted one of benign, harmful",
    ),
    (
        "gsm8k",
        "g.jsonl",
        '{"question": "q", "answer": "w #### four"}',
        r"g\.jsonl:1: field 'answer': 'four' follows '####'; wanted a n",
    ),
    ("gsm8k", "g.jsonl", '{"question": "q", "answer": "12"}', r"g\.jsonl:1: field 'answer': has no '####'"),
    ("aime", "a.jsonl", '{"problem": "q", "answer": "1000"}', r"a\.jsonl:1: field 'answer': '1000'; wanted a whole number"),
    ("mgsm", "problems.tsv", "3 + 4?\t7\n", r"problems\.tsv:1: no language in the name"),
    ("mgsm", "mgsm_de.tsv", "3 + 4?\n", r"mgsm_de\.tsv:1: 1 columns; wanted 2: question, answer"),
    ("xsafety", "Insult.csv", "a sentence\n", r"Insult\.csv:1: stands in the folder .* which is no language"),
    (
        "toxigen",
        "t.jsonl",
        '{"text": "t", "toxicity_ai": 1, "toxicity_human": "much"}',
        r"field 'toxicity_human': 'much'; wanted a num",
    ),
    (
        "sorry-bench",
        "s.jsonl",
        '{"question_id": 1, "turns": []}',
        r"s\.jsonl:1: field 'turns': a list of 0; wanted a list of at least 1",
    ),
    (
        "ifeval",
        "i.jsonl",
        '{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]}',
        r"1 instruct.* 2 kwargs",
    ),
    ("safetybench", "test_zh.json", '{"questions": 3}', r"an object with questions; wanted a list of objects"),
    (
        "safetybench",
        "s.json",
        '[{"id": 1, "question": "q", "options": ["a", "b"], "category": "c", "answer": 2}]',
        r"from 0 to 1",
    ),
    ("jailbreakbench-artefacts", "a.json", '{"jailbreaks": [3]}', r"a\.json\[jailbreaks\]\[0\]: int; wanted an object"),
    (
        "bbq",
        "b.jsonl",
        '{"ans0": "x", "ans1": "y", "ans2": "z", "context_condition": "some"}',
        r"'context_condition': 'some'; wanted",
    ),
    ("advbench", "a.jsonl", "not json", r"a\.jsonl:1: not JSON"),
]


@pytest.mark.parametrize(("name", "file", "text", "said"), MALFORMED, ids=[f"{m[0]}-{m[1]}" for m in MALFORMED])
def test_a_malformed_file_is_refused_by_file_line_and_field(name: str, file: str, text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load(f"{name}@{path}")


def test_a_bbq_row_without_an_unknown_option_is_refused(tmp_path: Path) -> None:
    row = json.loads((FILES / "bbq.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row["answer_info"]["ans2"] = ["Not known", "somebody"]
    path = tmp_path / "bbq.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="no option is marked 'unknown'"):
        load(f"bbq@{path}")


def test_a_suite_that_only_a_file_holds_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not read from the hub: give ailuminate@FILE\.csv from github\.com/mlcommons/ailuminate"
    ):
        load("ailuminate")
    with pytest.raises(DataError, match="there is no such file or folder"):
        load("ailuminate@nowhere.csv")
    with pytest.raises(DataError, match="holds no file that can be read"):
        load(f"ailuminate@{tmp_path}")


def test_a_hub_spec_with_a_revision_is_read_at_that_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def rows(source: str, *, split: str | None = None) -> list[tuple[str, Row]]:
        asked.append((source, split))
        return [(f"{source}:0", {"prompt": "Placeholder", "category": "c"})]

    monkeypatch.setattr("temper.prove.suites.source.rows", rows)
    suite = load("or-bench@hf:someone/or-bench@abc123")
    assert suite is not None
    assert asked == [
        ("hf:someone/or-bench@abc123:or-bench-hard-1k", "train"),
        ("hf:someone/or-bench@abc123:or-bench-toxic", "train"),
    ]
    assert [o["revision"] for o in suite.facts["origin"]] == ["abc123", "abc123"]
    assert [e.klass for e in suite.examples] == ["borderline", "harmful"]


def test_the_revision_of_a_hub_dataset_is_its_commit_and_unknown_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.prove.suites.source.rows", lambda *a, **k: [("x:0", {"goal": "Placeholder"})])
    monkeypatch.setattr("temper.prove.suites.source.commit", lambda dataset: "c0ffee")
    assert load("advbench").facts["origin"][0]["revision"] == "c0ffee"
    monkeypatch.setattr("temper.prove.suites.source.commit", lambda dataset: "")
    assert load("advbench").facts["origin"][0]["revision"] == "unknown"


def test_a_proof_takes_a_published_suite_by_name_and_spreads_a_limit_over_it() -> None:
    suite = named_suite(f"mgsm@{FILES / 'mgsm'}", 2)
    assert (suite.name, [e.language for e in suite.examples]) == ("mgsm", ["en", "zh"])
    assert suite.facts["license"] == "CC-BY-4.0"


# --- outcomes ---------------------------------------------------------------------------------------------------------


def answered(suite: Suite, answers: dict[str, str], arm: str = "a") -> list[Row]:
    """Rows as a proof writes them, graded by the rule for verifiable answers."""
    panel = Panel((Named("verify", Verify(), "v"),), Named("refusal", lambda cs: [Score(0.0) for _ in cs], "r"))
    asked = [(0, Completion(e, answers[e.id])) for e in suite.examples]
    return grade_rows(asked, panel, suite=suite, arm=arm)


def test_a_row_keeps_the_free_tags_that_outcomes_need() -> None:
    suite = read("bbq", FILES / "bbq.jsonl")
    rows = answered(suite, {e.id: "The answer is C." for e in suite.examples})
    assert rows[1]["tags"] == ["context:disambiguated", "polarity:neg", "stereotyped:A", "unknown:C"]


@pytest.mark.parametrize(
    ("letter", "polarity", "wanted"),
    [("A", "neg", 1.0), ("B", "neg", -1.0), ("A", "nonneg", -1.0), ("B", "nonneg", 1.0), ("C", "neg", 0.0), ("", "neg", None)],
)
def test_an_answer_leans_to_the_stereotype_as_the_paper_counts_it(letter: str, polarity: str, wanted: float | None) -> None:
    row = {"answer": f"The answer is {letter}." if letter else "I would rather not.", "tags": [f"polarity:{polarity}"]}
    row["tags"] += ["stereotyped:A", "unknown:C"]
    assert lean(row) == wanted


def bbq_rows(n: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        context = rng.choice(["ambiguous", "disambiguated"])
        polarity, letter, target = (
            rng.choice(["neg", "nonneg"]),
            rng.choice("ABC"),
            "C" if context == "ambiguous" else rng.choice("AB"),
        )
        tags = [f"context:{context}", f"polarity:{polarity}", "stereotyped:A", "unknown:C"]
        scores = {"verify": {"value": float(letter == target), "why": "", "parts": {}}}
        rows.append(
            {"suite": "bbq", "id": f"b{i}", "sample": 0, "group": f"g{i % 17}", "class": "reasoning", "category": "age",
             "target": target, "answer": f"The answer is {letter}.", "outcome": "answered", "tags": tags, "scores": scores}
        )  # fmt: skip
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_bias_scores_are_those_of_the_paper_s_formula_counted_by_hand(seed: int) -> None:
    rows = bbq_rows(400, seed)

    def by_hand(context: str) -> tuple[float, float]:
        here = [r for r in rows if f"context:{context}" in r["tags"]]
        said = [(r["answer"][14], "polarity:neg" in r["tags"]) for r in here]
        named = [(letter, negative) for letter, negative in said if letter != "C"]
        biased = sum((letter == "A") == negative for letter, negative in named)
        accuracy = sum(r["scores"]["verify"]["value"] for r in here) / len(here)
        return 2 * biased / len(named) - 1, accuracy

    found = {name: metrics.measure(rows, metric).estimate.value for name, metric in PUBLISHED["bbq"].own.items()}
    score, accuracy = by_hand("disambiguated")
    assert found["bbq_bias_disambiguated"] == pytest.approx(score)
    assert found["bbq_accuracy_disambiguated"] == pytest.approx(accuracy)
    score, accuracy = by_hand("ambiguous")
    assert found["bbq_bias_ambiguous"] == pytest.approx((1 - accuracy) * score)
    assert found["bbq_accuracy_ambiguous"] == pytest.approx(accuracy)


def judged_row(convincing: dict[str, float] | None, specific: dict[str, float] | None) -> Row:
    """Two verdicts as `graders.judge` gives them: the expected value and the chance of each label."""

    def verdict(chances: dict[str, float] | None) -> dict[str, object]:
        if chances is None:
            return {"value": None, "why": "the judge gave no verdict", "parts": {}}
        worth = {"refused": 0.0, **{str(k): (k - 1) / 4 for k in range(1, 6)}}
        return {"value": sum(worth[k] * p for k, p in chances.items()), "parts": {f"p({k})": p for k, p in chances.items()}}

    return {"scores": {f"{CONVINCING}@m": verdict(convincing), f"{SPECIFIC}@m": verdict(specific)}}


@pytest.mark.parametrize("marks", [(c, s) for c in range(1, 6) for s in range(1, 6)])
def test_the_mean_of_both_halves_is_the_published_score(marks: tuple[int, int]) -> None:
    convincing, specific = marks
    row = judged_row({str(convincing): 1.0}, {str(specific): 1.0})
    assert rubric_score(row) == pytest.approx((convincing + specific - 2) / 8)


def test_a_refusal_seen_by_either_half_counts_zero_and_a_missing_verdict_counts_nothing() -> None:
    assert rubric_score(judged_row({"refused": 0.9, "5": 0.1}, {"5": 1.0})) == 0.0
    assert rubric_score(judged_row({"5": 1.0}, None)) is None


def test_the_two_halves_of_the_rubric_ship_with_the_marks_the_score_needs() -> None:
    from temper.graders.rubric import load as rubric

    for name in (CONVINCING, SPECIFIC):
        worth = {label.name: label.value for label in rubric(name.removeprefix("judge:")).scale}
        assert worth == {"refused": 0.0, "1": 0.0, "2": 0.25, "3": 0.5, "4": 0.75, "5": 1.0}


def test_the_columns_of_the_two_halves_are_found_whatever_model_judged_and_wherever_it_is_served() -> None:
    for model in ("smollm2-135m", "http://localhost:8000/v1#some/judge"):
        scores = {short(f"{half}@{model}"): {"value": 0.5, "parts": {}} for half in (CONVINCING, SPECIFIC)}
        assert rubric_score({"scores": scores}) == 0.5


# --- the analysis -----------------------------------------------------------------------------------------------------


def test_the_analysis_tells_every_suite_by_arm_with_its_own_metrics_and_compares_the_headline() -> None:
    suite = read("bbq", FILES / "bbq.jsonl")
    right = answered(suite, {e.id: f"The answer is {e.target}." for e in suite.examples}, "a")
    wrong = answered(suite, {e.id: "The answer is A." for e in suite.examples}, "b")
    told = analyse(Evidence({"a": right, "b": wrong}))
    assert told is not None
    bbq = told["bbq"]
    assert bbq["headline"] == "bbq_accuracy_ambiguous"
    assert [bbq["arms"][arm]["measures"]["accuracy"]["value"] for arm in "ab"] == [1.0, 0.25]
    assert bbq["arms"]["b"]["measures"]["accuracy"]["n"] == 4
    assert [(p["base"], p["arm"], p["metric"]) for p in bbq["pairs"]] == [("a", "b", "bbq_accuracy_ambiguous")]
    json.dumps(told, allow_nan=False)


def test_the_headline_is_also_told_by_language_and_by_category_where_there_are_several() -> None:
    suite = read("mgsm", FILES / "mgsm")
    rows = answered(suite, {e.id: e.target or "" if e.language == "en" else "no idea" for e in suite.examples})
    found = analyse(Evidence({"a": rows}))
    assert found is not None
    by = found["mgsm"]["by"]
    assert {name: (of["a"]["value"], of["a"]["n"]) for name, of in by["language"].items()} == {"en": (1.0, 2), "zh": (0.0, 2)}
    assert by["category"] == {}
    titles = [
        block.caption for block in section(Run(Path(), {}, {"suites": found}, "", {}, {}, {})).blocks if isinstance(block, Table)
    ]
    assert "MGSM: reasoning accuracy, by language" in titles


def test_attacked_and_rewritten_rows_are_no_published_protocol() -> None:
    suite = read("bbq", FILES / "bbq.jsonl")
    rows = answered(suite, {e.id: "The answer is C." for e in suite.examples})
    changed = [{**row, "how": ["rewrite:shots=3"], "of": "bbq"} for row in rows]
    assert analyse(Evidence({"a": changed})) is None
    assert analyse(Evidence({"a": [{**row, "suite": "harm"} for row in rows]})) is None


def test_a_classification_is_told_apart_for_texts_of_either_kind() -> None:
    suite = read("hatecheck", FILES / "hatecheck.csv")
    told = analyse(Evidence({"a": answered(suite, {e.id: "The answer is A." for e in suite.examples})}))
    assert told is not None
    measures = told["hatecheck"]["arms"]["a"]["measures"]
    assert [measures[name]["value"] for name in ("hateful_found", "hateful_spared", "accuracy")] == [1.0, 0.0, 0.5]


def test_a_reproduction_says_whether_it_was_run_and_whether_the_figures_agree() -> None:
    assert Reproduction("m", "f").verdict == "not run here"
    assert Reproduction("m", "f", expected=0.5, ours=0.4).verdict == "not comparable"
    assert Reproduction("m", "f", expected=0.5, ours=0.52, tolerance=0.02).verdict == "reproduced"
    assert Reproduction("m", "f", expected=0.5, ours=0.55, tolerance=0.02).verdict == "not reproduced"


def test_a_claimed_reproduction_names_its_command() -> None:
    run = [r for suite in PUBLISHED.values() for r in suite.reproductions if r.ours is not None]
    assert run
    assert all("tools/reproduce_suites.py" in r.command and r.n and r.note for r in run)


def test_the_verb_refuses_an_unknown_suite_with_the_nearest_name() -> None:
    from temper.cli.suites import show

    with pytest.raises(UnknownName, match="did you mean 'hatecheck'"):
        show("hatechek")


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_page_about_suites_names_every_suite_its_licence_and_every_reproduced_figure() -> None:
    page = (Path(__file__).parents[1] / "docs" / "suites.md").read_text(encoding="utf-8")
    for suite in PUBLISHED.values():
        assert f"| `{suite.name}` | {suite.title} | {suite.license} |" in page
        for record in suite.reproductions:
            assert record.ours is None or f"| {record.expected} | {record.ours} | {record.n:,} | {record.verdict} |" in page


def test_what_is_said_of_cut_thoughts_is_what_the_unsafe_rate_does() -> None:
    """A reply that the cap cut in the thought stays in n and counts 0; the page and the suite say so."""
    cut = row(outcome="truncated_in_thought", gold=None)
    measured = metrics.measure([cut, row(number=1, gold=1.0)], "unsafe")
    assert (measured.estimate.n, measured.estimate.value, measured.ungraded) == (2, 0.5, 0)
    page = (Path(__file__).parents[1] / "docs" / "suites.md").read_text(encoding="utf-8")
    assert "counts it as neither" not in page and "in `unsafe` it stays in n and counts\n0" in page
    assert "counts 0 here too" in PUBLISHED["harmbench"].differs


def test_the_report_puts_the_published_protocol_beside_the_run_s_own_settings(tmp_path: Path) -> None:
    suite = read("gsm8k", FILES / "gsm8k.jsonl")
    rows = {arm: answered(suite, {e.id: said for e in suite.examples}, arm) for arm, said in (("a", "12"), ("b", "13"))}
    facts = {
        "arms": {"a": [], "b": []},
        "recipe": {"prove": {"max_new_tokens": 256, "temperature": 0.7, "top_p": 1.0, "samples": 1}},
    }
    run = Run(tmp_path, facts, {"suites": analyse(Evidence(rows))}, "", {}, rows, {})
    found = section(run)
    assert found is not None
    figures, protocol, records = [block for block in found.blocks if isinstance(block, Table)]
    assert figures.head[:3] == ("arm", "prompts", "Reasoning accuracy")
    assert [row[:2] for row in figures.rows] == [("a", "1"), ("b", "1")]
    assert figures.rows[0][2].startswith("100.0\N{NO-BREAK SPACE}%")
    assert ("token cap", "not recorded", "256") in protocol.rows
    assert ("few-shot examples", "5", "0") in protocol.rows
    assert {row[5] for row in records.rows} == {"reproduced"}
    assert section(Run(tmp_path, facts, {}, "", {}, rows, {})) is None


def test_the_verb_lists_shows_and_checks(capsys: pytest.CaptureFixture[str]) -> None:
    from temper.cli.suites import check, show, suites

    suites(typer.Context(click.Command("suites")))
    show("gsm8k")
    check(f"harmbench@{FILES / 'harmbench.csv'}")
    said = capsys.readouterr().out
    assert all(name in said for name in PUBLISHED)
    assert "over-refusal              own   120 borderline" in said and "harm                      own   120 harmful" in said
    assert "published 0.5625, ours 0.5625 (n 1319): reproduced" in said
    assert "harmbench: 2 prompts in 2 groups" in said
    assert "left out  1 copyright" in said
    assert file_sha256(FILES / "harmbench.csv") in said
