"""Rubric files: those that ship, one's own, and what is said about wrong ones."""

from pathlib import Path

import pytest

from temper.errors import DataError, UnknownName
from temper.graders.rubric import load, ready

READY = [
    "harm",
    "helpfulness",
    "over-refusal",
    "reasoning-harm",
    "safe-completion",
    "strongreject-convincing",
    "strongreject-specific",
]

MINE = """
name = "polite"
version = 3
reads = ["answer"]
better = "high"
question = "Is it polite?"
instructions = "You grade politeness."
[[scale]]
label = "rude"
value = 0
means = "rude"
[[scale]]
label = "polite"
value = 1
means = "polite"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_ready_rubrics_ship_with_names_versions_and_a_probe() -> None:
    assert ready() == READY
    for name in READY:
        rubric = load(name)
        assert (rubric.name, rubric.version >= 1, rubric.probe is not None, bool(rubric.pair)) == (name, True, True, True)


def test_what_each_ready_rubric_reads_is_what_its_question_needs() -> None:
    assert load("harm").reads == ("conversation", "reasoning", "answer")
    assert load("reasoning-harm").reads == ("conversation", "reasoning")
    assert load("helpfulness").reads == load("safe-completion").reads == load("over-refusal").reads == ("conversation", "answer")
    assert [load(name).better for name in READY] == ["low", "high", "low", "low", "high", "low", "low"]


def test_a_part_of_a_harmful_text_can_be_judged_alone_and_a_part_of_a_helpful_one_cannot() -> None:
    assert {name: load(name).long for name in READY} == {
        "harm": "worst",
        "reasoning-harm": "worst",
        "helpfulness": "abstain",
        "over-refusal": "abstain",
        "safe-completion": "abstain",
        "strongreject-convincing": "abstain",
        "strongreject-specific": "abstain",
    }


def test_a_rubric_of_one_s_own_is_read_from_its_path(tmp_path: Path) -> None:
    rubric = load(written(tmp_path, MINE))
    assert (rubric.name, rubric.version, [s.value for s in rubric.scale]) == ("polite", 3, [0.0, 1.0])
    assert [end.name for end in rubric.ends] == ["rude", "polite"]


def test_the_digest_changes_with_every_word_and_not_with_the_file(tmp_path: Path) -> None:
    first = load(written(tmp_path, MINE)).digest
    assert load(written(tmp_path, f"# a comment\n{MINE}")).digest == first
    assert load(written(tmp_path, MINE.replace("Is it polite?", "Is it polite"))).digest != first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("better =", "bettr ="), "unknown key 'bettr'; did you mean 'better'"),
        (('means = "rude"', 'meaning = "rude"'), "unknown key 'scale.0.meaning'; did you mean 'means'"),
        (("value = 0", "value = 2"), "field 'scale.0.value': Input should be less than or equal to 1"),
        (("value = 0", "value = 1"), "all labels have the same value"),
        (('label = "rude"', 'label = "polite"'), "two labels have the same name"),
        (('reads = ["answer"]', 'reads = ["conversation"]'), "at least one of 'reasoning' and 'answer'"),
        (('reads = ["answer"]', 'reads = ["thoughts"]'), "field 'reads.0'"),
        (("version = 3", "version = 0"), "field 'version'"),
        (('question = "Is it polite?"', ""), "field 'question': Field required"),
        (('name = "polite"', 'name = "Polite!"'), "field 'name'"),
        (("[[scale]]", "[[scale"), "not TOML"),
    ],
)
def test_a_wrong_rubric_is_refused_by_file_and_field(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    path = written(tmp_path, MINE.replace(*change, 1))
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_an_example_must_end_in_a_label_of_the_scale(tmp_path: Path) -> None:
    example = '[[example]]\nconversation = "Hi"\nanswer = "Hm."\nlabel = "polit"\n'
    with pytest.raises(DataError, match=r"label 'polit' is not on the scale; did you mean 'polite'"):
        load(written(tmp_path, MINE + example))


def test_an_unknown_rubric_names_its_nearest_neighbour_and_the_other_way(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'harm'.*path that ends in \.toml"):
        load("harms")
    with pytest.raises(DataError, match="no such rubric file; ready ones: harm"):
        load(tmp_path / "missing.toml")
