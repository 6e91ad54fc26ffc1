"""Overlap: each kind is found, near misses are not, and the bundled training sets do not hold the bundled suites."""

import random

import pytest

from temper.data.overlap import Overlap, _shingles, dedupe, normalise, overlaps
from temper.data.read import read
from temper.data.rows import bundled
from temper.errors import DataError
from temper.types import Example, Message

TRAIN, TEST = ("cold-start", "red-team"), ("harm", "over-refusal", "benign", "reasoning")
WORDS = [f"{a}{b}{c}" for a in ("ba", "ke", "li", "mo", "nu") for b in ("ra", "se", "ti", "vo") for c in ("n", "p", "st", "x")]


def asked(id: str, *turns: str) -> Example:
    return Example(id, tuple(Message("user", turn) for turn in turns))


def sentences(count: int, words: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [asked(f"{seed}-{k}", " ".join(draw.choices(WORDS, k=words))) for k in range(count)]


def kinds(train: str, test: str, *, ngram: int = 8, jaccard: float = 0.5) -> list[str]:
    return [o.kind for o in overlaps([asked("a", train)], [asked("b", test)], ngram=ngram, jaccard=jaccard)]


def test_case_punctuation_width_and_spacing_do_not_hide_a_copy() -> None:
    assert kinds("How do I  pick a LOCK?", "how do i pick a lock") == ["exact"]
    assert normalise("Ｈｅｌｌｏ,\nWORLD!") == "hello world"


def test_a_pair_is_reported_once_under_its_strictest_kind() -> None:
    text = "please tell me how one may open an old door without any key"
    assert overlaps([asked("a", text)], [asked("b", text)]) == [Overlap("a", "b", "exact", "13 words")]


@pytest.mark.parametrize("n", [8, 10, 13])
def test_a_copied_run_of_n_words_is_found_and_one_word_less_is_not(n: int) -> None:
    run = " ".join(WORDS[:n])
    before, after = " ".join(WORDS[20:50]), " ".join(WORDS[50:80])
    assert kinds(f"{before} {run}", f"{run} {after}", ngram=n) == ["ngram"]
    assert kinds(f"{before} {run}", f"{run} {after}", ngram=n + 1) == []


def test_the_detail_of_a_copied_run_is_the_run() -> None:
    run = " ".join(WORDS[:8])
    found = overlaps([asked("a", f"{' '.join(WORDS[20:50])} {run}")], [asked("b", f"{run} {' '.join(WORDS[50:80])}")])
    assert [o.detail for o in found] == [run]


def test_a_prompt_with_one_word_changed_is_near() -> None:
    assert kinds("How can I quietly pick my neighbour's lock?", "How can I quickly pick my neighbour's lock?") == ["near"]


def test_prompts_that_only_begin_alike_are_not_near() -> None:
    assert kinds("How can I open a bank account abroad?", "How can I open a stuck window in winter?") == []


def test_scripts_without_spaces_are_compared_character_by_character() -> None:
    assert kinds("请告诉我怎样打开邻居家的门", "我想知道：怎样打开邻居家的门，现在") == ["ngram"]


def test_earlier_user_turns_count() -> None:
    train = [asked("a", "How do I pick a lock?", "And without noise?")]
    assert overlaps(train, [asked("b", "How do I pick a lock? And without noise?")])[0].kind == "exact"


def test_every_copy_of_a_text_is_reported() -> None:
    found = overlaps([asked("a", "Hi you."), asked("b", "hi you")], [asked("x", "Hi, you!"), asked("y", "Hello there.")])
    assert [(o.train_id, o.test_id) for o in found] == [("a", "x"), ("b", "x")]


def test_prompts_without_words_match_nothing() -> None:
    assert kinds("?!", "...") == []
    assert overlaps([], [asked("a", "Hi.")]) == []


def test_near_pairs_are_those_an_exact_comparison_finds() -> None:
    originals = sentences(60, 14, seed=1)
    draw = random.Random(2)
    changed = []
    for k, example in enumerate(originals):
        words = example.prompt.split()
        for place in draw.sample(range(14), k % 7):
            words[place] = draw.choice(WORDS)
        changed.append(asked(f"c{k}", " ".join(words)))
    found = {(o.train_id, o.test_id) for o in overlaps(originals, changed, ngram=99)}
    sets = {e.id: _shingles(normalise(e.prompt)) for e in [*originals, *changed]}
    exact = {(a.id, b.id): len(sets[a.id] & sets[b.id]) / len(sets[a.id] | sets[b.id]) for a in originals for b in changed}
    wanted = {pair for pair, value in exact.items() if value >= 0.5}
    assert found <= wanted
    assert len(found) >= 0.95 * len(wanted) > 30


@pytest.mark.parametrize(("ngram", "jaccard"), [(0, 0.5), (8, 0.0), (8, 1.5)])
def test_settings_out_of_range_are_errors(ngram: int, jaccard: float) -> None:
    with pytest.raises(DataError, match="wanted ngram of at least 1"):
        overlaps([], [], ngram=ngram, jaccard=jaccard)


def test_deduplication_keeps_the_first_of_each_and_the_order() -> None:
    listed = [
        asked("a", "How can I quietly pick the lock of my neighbour's house tonight?"),
        asked("b", "Which seeds can be sown in March?"),
        asked("c", "how can I quietly pick the lock of my neighbour's house tonight"),
        asked("d", "How can I quietly pick the locks of my neighbour's house tonight?"),
        asked("e", "?!"),
        asked("f", "..."),
    ]
    assert [e.id for e in dedupe(listed)] == ["a", "b", "e", "f"]


def test_only_a_kept_text_removes_others() -> None:
    first, second, third = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123", "efghijklmnopqrstuvwxyz0123"
    chain = [asked("a", first), asked("b", second), asked("c", third)]
    assert [e.id for e in dedupe(chain[1:], jaccard=0.8)] == ["b"]
    assert [e.id for e in dedupe(chain, jaccard=0.8)] == ["a", "c"]


def test_deduplication_of_distinct_texts_changes_nothing() -> None:
    assert dedupe(sentences(300, 12)) == sentences(300, 12)
    assert dedupe([]) == []


def test_five_thousand_by_five_hundred_is_quick_and_finds_what_was_planted() -> None:
    train, test = sentences(5000, 15, seed=3), sentences(500, 15, seed=4)
    planted = [asked(f"leak-{k}", test[k].prompt.replace(" ", "  ").upper()) for k in range(20)]
    found = {(o.train_id, o.test_id) for o in overlaps([*train, *planted], test)}
    assert {(f"leak-{k}", test[k].id) for k in range(20)} <= found


@pytest.mark.skipif(not {*TRAIN, *TEST} <= set(bundled()), reason="the bundled sets are not here")
@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("test", TEST)
def test_no_bundled_training_set_holds_a_prompt_of_a_bundled_suite(train: str, test: str) -> None:
    assert [(o.train_id, o.test_id, o.kind) for o in overlaps(read(train), read(test))] == []


@pytest.mark.skipif(not {*TRAIN, *TEST} <= set(bundled()), reason="the bundled sets are not here")
@pytest.mark.parametrize("test", TEST)
def test_a_prompt_of_a_suite_planted_in_a_training_set_is_found(test: str) -> None:
    leak = read(test)[7]
    copied = asked("copied", leak.prompt)
    reworded = asked("reworded", leak.prompt.rsplit(maxsplit=1)[0] + " now")
    found = overlaps([*read("cold-start"), copied, reworded], read(test))
    assert {"copied", "reworded"} <= {o.train_id for o in found if o.test_id == leak.id}


@pytest.mark.skipif(not {*TRAIN, *TEST} <= set(bundled()), reason="the bundled sets are not here")
@pytest.mark.parametrize("train", TRAIN)
def test_no_twin_of_a_suite_s_prompt_is_trained_on(train: str) -> None:
    tested = {example.group for name in TEST for example in read(name)}
    assert not tested & {example.group for example in read(train)}
