"""Rewrites change how something is asked and never what; a grid is a design from which effects can be told apart."""

import json
import tomllib
from importlib.resources import files
from itertools import combinations, product

import numpy as np
import pytest

from temper.data.overlap import normalise
from temper.data.read import read
from temper.errors import DataError, UsageError
from temper.prove.design import association, fractional
from temper.prove.rewrite import EMPTY_THOUGHT, FACTORS, PLAIN, Rewrite, cells, grid, parse, rewritten
from temper.text.split import split
from temper.types import CLASSES, Example, Message, Suite

LEVELS = [len(levels) for levels in FACTORS.values()]
PHRASINGS = tomllib.loads((files("temper.prove") / "phrasings.toml").read_text(encoding="utf-8"))
EVERY = [
    Rewrite(**dict(zip(FACTORS, levels, strict=True)), language=language).spec
    for levels in product(*FACTORS.values())
    for language in ("", "fr")
]


def example(name="a", prompt="Why is the sky blue?", klass="benign", language="en", group="", **more):
    return Example(name, (Message("user", prompt),), tags=frozenset({klass}), language=language, group=group, **more)


def suite(*examples):
    return Suite("small", examples or (example(),), facts={"license": "Apache-2.0"})


def roles(example):
    return [m.role for m in example.messages]


def test_the_plain_cell_gives_the_suite_back():
    assert rewritten(suite(), PLAIN) == suite()
    assert parse("shots=0,place=none").spec == PLAIN


def test_a_spec_has_one_way_of_being_written():
    assert parse("think=none, shots=3").spec == "shots=3,think=none"
    assert all(parse(spec).spec == spec for spec in EVERY)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("shot=3", "did you mean 'shots'"),
        ("shots=2", "known: 0, 1, 3"),
        ("shots=1,shots=3", "given twice"),
        ("language=xx", "language"),
        ("", "no factor"),
    ],
)
def test_a_wrong_spec_says_what_was_wanted(spec, said):
    with pytest.raises(UsageError, match=said):
        rewritten(suite(), spec)


@pytest.mark.parametrize("name", ["harm", "over-refusal", "benign", "reasoning"])
def test_every_cell_keeps_ids_groups_classes_targets_and_the_plain_request(name):
    plain = Suite(name, tuple(read(name))[:3])
    for spec in EVERY[::7]:
        changed = rewritten(plain, spec)
        kept = [(e.id, e.group, e.tags, e.target, e.prompt) for e in changed.examples]
        assert kept == [(e.id, e.group, e.tags, e.target, e.prompt) for e in plain.examples]
        if spec != PLAIN:
            assert all(e.prompt in e.messages[-1 - bool(e.prefill)].content for e in changed.examples)


def test_cells_differ_from_each_other_and_names_fit_a_folder():
    asked = {spec: rewritten(suite(), spec) for spec in EVERY}
    assert len({made.examples[0].messages for made in asked.values()}) == len(EVERY)
    assert all(made.name.replace("+", "").translate(str.maketrans("", "", "=,-_.")).isalnum() for made in asked.values())
    made = asked["shots=1,place=system"]
    assert (made.name, made.of, made.how) == ("small+shots=1,place=system", "small", ("rewrite:shots=1,place=system",))
    assert made.facts == suite().facts


def test_a_suite_rewritten_twice_still_pairs_with_the_plain_one():
    twice = rewritten(rewritten(suite(), "paraphrase=1"), "think=none")
    assert (twice.of, twice.how) == ("small", ("rewrite:paraphrase=1", "rewrite:think=none"))
    assert twice.examples[0].prompt == "Why is the sky blue?"


def test_instructions_stand_where_the_place_says():
    policy = PHRASINGS["en"]["policy"].strip()
    user = rewritten(suite(), "structure=policy,place=user").examples[0].messages
    system = rewritten(suite(), "structure=policy,place=system").examples[0].messages
    assert [m.role for m in user] == ["user"]
    assert user[0].content.startswith(PHRASINGS["en"]["preamble"])
    assert policy in user[0].content
    assert [m.role for m in system] == ["system", "user"]
    assert policy in system[0].content
    assert system[1].content == "Why is the sky blue?"


def test_a_system_turn_that_is_there_already_is_kept_and_stays_one_turn():
    talked = Example("a", (Message("system", "Be brief."), Message("user", "Hi, why?")), tags=frozenset({"benign"}))
    made = rewritten(suite(talked), "place=system,structure=steps,shots=1").examples[0]
    assert roles(made) == ["system", "user", "assistant", "user"]
    assert made.messages[0].content.startswith("Be brief.\n\n")


def test_only_the_last_turn_of_a_conversation_is_reworded():
    turns = (Message("user", "First?"), Message("assistant", "Yes."), Message("user", "Second?"))
    made = rewritten(suite(Example("a", turns, tags=frozenset({"benign"}))), "paraphrase=2").examples[0]
    assert made.messages[:2] == turns[:2]
    assert made.messages[2].content.startswith("Second?\n\n")


@pytest.mark.parametrize("klass", CLASSES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_shots_are_of_the_examples_class_and_in_its_language_and_asked_in_the_same_shape(klass, language):
    pool = PHRASINGS[language]["shots"][klass]
    made = rewritten(suite(example(klass=klass, language=language)), "shots=3,structure=json,paraphrase=1").examples[0]
    assert roles(made) == ["user", "assistant"] * 3 + ["user"]
    for shot, (asked, answered) in zip(pool, zip(made.messages[0::2], made.messages[1::2], strict=False), strict=False):
        assert shot["prompt"] in asked.content
        assert asked.content.endswith(PHRASINGS[language]["json"])
        assert json.loads(answered.content)["answer"].endswith(shot["answer"])


def test_a_shot_is_never_what_is_asked():
    own = PHRASINGS["en"]["shots"]["benign"][0]["prompt"]
    made = rewritten(suite(example(prompt=own)), "shots=3").examples[0]
    assert [m.content for m in made.messages if m.role == "user"].count(own) == 1
    assert len(made.messages) == 7


def test_no_shot_stands_in_a_bundled_suite():
    asked = {normalise(e.prompt) for name in ("harm", "over-refusal", "benign", "reasoning") for e in read(name)}
    shots = [shot for words in ("en", "zh") for pool in PHRASINGS[words]["shots"].values() for shot in pool]
    assert len({shot["prompt"] for shot in shots}) == len(shots)
    assert not asked & {normalise(shot["prompt"]) for shot in shots}


def test_shots_for_harmful_prompts_refuse_by_the_refusal_grader():
    from temper.graders.refusal import Refusal
    from temper.types import Completion

    shots = PHRASINGS["en"]["shots"]["harmful"]
    said = [" ".join([*shot["steps"], shot["answer"]]) for shot in shots]
    found = Refusal()([Completion(example(prompt=s["prompt"], klass="harmful"), t) for s, t in zip(shots, said, strict=True)])
    assert all(score.value >= 0.5 for score in found)


def test_both_languages_have_the_same_parts():
    def shape(words):
        return {
            key: (len(value) if isinstance(value, list) else sorted(value) if key == "languages" else type(value).__name__)
            for key, value in words.items()
        } | {klass: len(pool) for klass, pool in words["shots"].items()}

    assert shape(PHRASINGS["en"]) == shape(PHRASINGS["zh"])
    assert all(text.count("{}") == 1 for words in ("en", "zh") for text in PHRASINGS[words]["paraphrases"])


def test_an_empty_thought_is_closed_and_a_prefilled_one_open():
    closed, opened = (rewritten(suite(), f"think={mode}").examples[0].prefill for mode in ("none", "prefilled"))
    assert closed == EMPTY_THOUGHT
    assert split(closed + "Because.").answer == "Because."
    assert split(opened).thought == "open"


def test_a_reply_that_is_begun_already_cannot_be_begun_again():
    begun = Example("x", (Message("user", "Why?"), Message("assistant", "Sure")), tags=frozenset({"benign"}))
    with pytest.raises(DataError, match="'x' already begins the reply"):
        rewritten(suite(begun), "think=none")
    assert rewritten(suite(begun), "paraphrase=1").examples[0].prefill == "Sure"


def test_an_example_without_a_user_or_a_class_is_refused_by_name():
    with pytest.raises(DataError, match="'y' has no turn of a user"):
        rewritten(suite(Example("y", (Message("system", "Be."),), tags=frozenset({"benign"}))), "paraphrase=1")
    with pytest.raises(DataError, match="'z' has no class"):
        rewritten(suite(Example("z", (Message("user", "Why?"),))), "shots=1")


def test_a_language_is_asked_by_the_suites_own_translation_where_there_is_one():
    parallel = suite(
        example("en-1", "Why?", group="1"),
        example("fr-1", "Pourquoi ?", language="fr", group="1"),
        example("en-2", "How?", group="2"),
        example("fr-1x", "Tuer ?", klass="harmful", language="fr", group="1"),
    )
    first, own, other, _ = rewritten(parallel, "language=fr").examples
    assert (first.id, first.messages[0].content, first.prompt) == ("en-1", "Pourquoi ?", "Pourquoi ?")
    assert own.messages[0].content == "Pourquoi ?"
    assert other.messages[0].content == "How?\n\nAnswer in French."
    assert {first.language, own.language, other.language} == {"fr"}


def test_a_chinese_prompt_is_rewritten_in_chinese():
    made = rewritten(suite(example(prompt="天空为什么是蓝色的？", language="zh")), "structure=steps,language=de").examples[0]
    assert made.messages[0].content == "天空为什么是蓝色的？\n\n请用编号步骤写出你的回答。\n\n请用德语回答。"


@pytest.mark.parametrize("n", [1, 2, 8, 12, 16, 24])
def test_a_grid_holds_the_plain_cell_first_distinct_cells_and_balanced_levels(n):
    made = fractional(LEVELS, n, seed=3)
    assert len(made) == len(set(made)) == n
    assert made[0] == (0,) * len(LEVELS)
    for column, levels in zip(zip(*made, strict=True), LEVELS, strict=True):
        counts = np.bincount(column, minlength=levels)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("n", [12, 16, 24])
def test_a_grid_is_nearer_to_orthogonal_than_any_of_many_random_balanced_designs(n):
    rng = np.random.default_rng(0)
    columns = [np.resize(np.arange(levels), n) for levels in LEVELS]
    drawn = (np.stack([rng.permutation(column) for column in columns], 1).tolist() for _ in range(200))
    assert association(fractional(LEVELS, n)) <= min(map(association, drawn))


def test_sixteen_cells_tell_every_level_from_all_others():
    made = fractional(LEVELS, 16)
    columns = [[float(cell[f] == level) for cell in made] for f, levels in enumerate(LEVELS) for level in range(1, levels)]
    assert np.linalg.matrix_rank(np.column_stack([np.ones(16), *columns])) == 1 + sum(levels - 1 for levels in LEVELS)


def test_the_search_finds_an_orthogonal_array_where_there_is_one():
    made = fractional([3, 3, 3, 3], 9)
    assert association(made) == 0
    assert all(len({(cell[a], cell[b]) for cell in made}) == 9 for a, b in combinations(range(4), 2))


def test_association_is_one_where_two_factors_are_one():
    assert association([(0, 0), (1, 1), (2, 2)]) == pytest.approx(1)


def test_a_grid_is_the_same_for_the_same_seed_and_another_for_another():
    assert grid(8, seed=1) == grid(8, seed=1) != grid(8, seed=2)


def test_a_grid_larger_than_the_factorial_is_refused_and_the_whole_of_a_small_one_is_found():
    with pytest.raises(UsageError, match="wanted 0 to 540"):
        grid(541)
    assert sorted(fractional([2, 3], 6)) == list(product(range(2), range(3)))


def test_a_proof_asks_named_and_grid_cells_once_and_never_plain_twice():
    wanted = cells(["think=none,shots=1", "shots=1,think=none", "plain"], 8)
    assert wanted[0] == "shots=1,think=none"
    assert PLAIN not in wanted
    assert len(wanted) == len(set(wanted)) == 8


def test_a_grid_of_the_plain_cell_alone_is_refused():
    with pytest.raises(UsageError, match="a grid of 1 cell is the plain suite"):
        cells([], 1)
