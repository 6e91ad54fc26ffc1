"""Language: spans, R1's share, mixing, requests for a language, and the grader on top of them."""

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speed import cpu_seconds, grows_within, slowness

from temper.graders import language as language_grader
from temper.graders.language import LanguageConsistency
from temper.text import identify, mixing
from temper.text import language as language_module
from temper.text.asked import asked_for
from temper.text.language import SCRIPTS, Span, count_words, spans, target_share
from temper.text.script import prose, words
from temper.types import Completion, Example, Message, Score

ENGLISH = "Bread rises because yeast eats sugar and makes gas, which the dough holds until the oven sets it."
FRENCH = "Le pain lève parce que la levure mange le sucre et produit un gaz que la pâte retient dans le four."
SPANISH = "El pan sube porque la levadura come azúcar y produce un gas que la masa retiene hasta el horno."
RUSSIAN = "Хлеб поднимается, потому что дрожжи едят сахар и выделяют газ, который тесто удерживает до самой печи."
UKRAINIAN = "Хліб піднімається, тому що дріжджі їдять цукор і виділяють газ, який тісто утримує до самої печі."
CHINESE = "面包会膨胀，因为酵母吃糖并产生气体，面团把气体留住，直到烤箱使它定型。"
JAPANESE = "パンが膨らむのは、酵母が糖を食べてガスを出し、生地がそれを閉じ込めるからです。"


def tagged(tags: str) -> list[Span]:
    """Spans of one word each, from language codes; a slash begins a new line."""
    lines = tags.split("/")
    return [Span(n, n + 1, code, 1, line) for line, codes in enumerate(lines) for n, code in enumerate(codes.split())]


def graded(reasoning: str, answer: str, *, prompt: str = "q", language: str = "en") -> Score:
    example = Example("x", (Message("user", prompt),), language=language)
    return LanguageConsistency()([Completion(example, answer, reasoning)])[0]


# --- share ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (FRENCH, "fr"),
        (SPANISH, "es"),
        (RUSSIAN, "ru"),
        (UKRAINIAN, "uk"),
        (CHINESE, "zh"),
        (CHINESE, "zh-Hant"),
        (JAPANESE, "ja"),
        ("빵은 효모가 설탕을 먹고 가스를 내기 때문에 부풀어 오른다.", "ko"),
        ("ينتفخ الخبز لأن الخميرة تأكل السكر وتنتج غازا يحتفظ به العجين حتى يدخل الفرن.", "ar"),
        ("रोटी इसलिए फूलती है क्योंकि खमीर चीनी खाता है और गैस बनाता है।", "hi"),
        ("রুটি ফোলে কারণ খামির চিনি খায় এবং গ্যাস তৈরি করে।", "bn"),
        ("ขนมปังพองตัวเพราะยีสต์กินน้ำตาลและปล่อยก๊าซออกมา", "th"),
        ("Το ψωμί φουσκώνει επειδή η μαγιά τρώει ζάχαρη.", "el"),
        ("הלחם תופח כי השמרים אוכלים סוכר ופולטים גז.", "he"),
    ],
)
def test_a_text_in_the_target_language_has_share_one(text: str, language: str) -> None:
    assert target_share(text, language) == 1.0


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (FRENCH, "en"),
        (ENGLISH, "fr"),
        (SPANISH, "fr"),
        (UKRAINIAN, "ru"),
        (JAPANESE, "zh"),
        (CHINESE, "ja"),
        (CHINESE, "en"),
        (ENGLISH, "zh"),
    ],
)
def test_a_text_in_another_language_has_share_zero(text: str, language: str) -> None:
    assert target_share(text, language) == 0.0


def test_han_counts_by_character_and_english_by_word() -> None:
    assert count_words("I like 面包 a lot", "en") == (4, 6)


def test_a_switch_in_the_middle_of_a_latin_text_is_seen() -> None:
    share = target_share(f"{ENGLISH} {FRENCH} {ENGLISH}", "en")
    assert share is not None
    assert 0.55 < share < 0.75


@pytest.mark.parametrize(
    "foreign",
    [
        "```python\nfür_schleife = 面包\n```",
        "`面包`",
        "https://example.org/面包",
        "$\\alpha + \\text{面} = 3$",
        "\\( \\frac{面}{2} \\)",
        "12 345,6",
        "<b>",
    ],
)
def test_code_mathematics_addresses_and_numbers_bear_no_language(foreign: str) -> None:
    assert count_words(f"see {foreign} here", "en") == (2, 2)


def test_words_quoted_from_the_user_do_not_count() -> None:
    asked = 'What does 面包 mean, and "le pain quotidien"?'
    assert target_share("The word 面包 means bread.", "en", exclude=asked) == 1.0
    assert target_share("The word 面包 means bread.", "en") == pytest.approx(4 / 6)


@pytest.mark.parametrize("text", ["", "   ", "42 + 7 = 49", "`x = 1`", "🙂🙂"])
def test_a_text_without_words_has_no_share(text: str) -> None:
    assert target_share(text, "en") is None


def test_a_language_that_is_not_covered_has_no_share() -> None:
    assert target_share(ENGLISH, "xx") is None
    assert "xx" not in SCRIPTS


def test_acronyms_do_not_break_a_chinese_text() -> None:
    assert target_share("使用 GPU 训练 AI 模型", "zh") == 1.0
    assert target_share("使用 computers 训练模型", "zh") == pytest.approx(6 / 7)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["zh", "ko", "th", "el", "ja"]))
def test_a_share_is_a_share_for_any_text(text: str, language: str) -> None:
    count = count_words(text, language)
    assert count is not None
    assert 0 <= count.target <= count.total


def test_fifty_thousand_words_a_second_are_counted_where_scripts_decide() -> None:
    text = f"{JAPANESE} {CHINESE} " * 40
    count = count_words(text, "ja")
    assert count is not None
    assert count.total / cpu_seconds(lambda: count_words(text, "ja")) > 50_000 / slowness()


# --- spans ------------------------------------------------------------------------------------------------------------


def found(text: str, language: str = "", exclude: str = "") -> list[tuple[str, str]]:
    return [(s.language, text[s.start : s.end]) for s in spans(text, language, exclude=exclude)]


def test_spans_name_the_language_of_each_stretch_and_where_it_stands() -> None:
    text = f"{ENGLISH} {RUSSIAN} `code` {CHINESE}"
    assert found(text, "en") == [("en", ENGLISH[:-1]), ("ru", RUSSIAN[:-1]), ("zh", CHINESE[:-1])]


def test_a_phrase_inside_a_sentence_is_cut_out_to_a_word() -> None:
    text = "Bread rises because yeast parce que la levure mange le sucre et produit eats sugar and makes gas in the dough."
    got = found(text, "en")
    assert [code for code, _ in got] == ["en", "fr", "en"]
    assert abs(len(got[1][1].split()) - 9) <= 1
    assert "que la levure mange le sucre et produit" in found(text, "en")[1][1]


def test_languages_are_found_without_one_being_expected() -> None:
    assert found(FRENCH) == [("fr", FRENCH[:-1])]
    assert found(UKRAINIAN) == [("uk", UKRAINIAN[:-1])]
    assert [code for code, _ in found(f"{JAPANESE}{CHINESE}{JAPANESE}")] == ["ja", "zh", "ja"]
    assert [code for code, _ in found("ok")] == ["en"]


def test_a_few_words_get_the_benefit_of_the_doubt() -> None:
    assert target_share("Voilà, the answer is right.", "en") == 1.0
    assert target_share("Hola", "en") == 1.0


def test_no_span_crosses_a_line_and_neighbours_in_a_line_are_one() -> None:
    got = spans("one two\n\nthree `x` four 12 five", "en")
    assert [(s.words, s.line) for s in got] == [(2, 0), (3, 1)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我在 Microsoft 和 Google 工作", "zh"),
        ("我读过 Charles de Gaulle 的书", "zh"),
        ("Он работает в Apple Inc уже год", "ru"),
        ("iPhone 很好用", "zh"),
    ],
)
def test_names_in_another_script_belong_to_no_language(text: str, language: str) -> None:
    assert target_share(text, language) == 1.0


def test_a_text_in_capitals_is_not_a_row_of_names() -> None:
    assert target_share("这是 THE ANSWER IS NOT HERE AT ALL 答案", "zh") == pytest.approx(4 / 11)
    assert target_share("这是 The Answer Is Not Here At All 答案", "zh") == pytest.approx(4 / 11)


def test_a_passage_of_the_prompt_repeated_in_its_language_does_not_count() -> None:
    asked = f"What does this mean? {FRENCH}"
    answer = f"It says: {FRENCH} {ENGLISH}"
    assert target_share(answer, "en", exclude=asked) == 1.0
    share = target_share(answer, "en")
    assert share is not None
    assert share < 0.6


def test_malay_is_malay_where_it_is_expected_and_indonesian_elsewhere() -> None:
    text = "Roti mengembang kerana yis memakan gula dan menghasilkan gas yang ditahan oleh doh sehingga dibakar di dalam ketuhar."
    assert target_share(text, "ms") == 1.0
    assert target_share(text, "id") == 1.0
    assert {code for code, _ in found(text, "en")} == {"id"}


def test_mixtures_of_known_proportion_are_measured_within_two_points() -> None:
    rng = random.Random(1)
    off = []
    for other, language in ((FRENCH, "fr"), (SPANISH, "es"), (CHINESE, "zh"), (RUSSIAN, "ru")):
        for n in (1, 2, 4):
            parts = [ENGLISH] * 8 + [other] * n
            rng.shuffle(parts)
            share = target_share(" ".join(parts), "en")
            total = count_words(other, language)
            english = 8 * len(ENGLISH.split())
            assert share is not None
            assert total is not None
            off.append(abs(share - english / (english + n * total.total)))
    assert statistics.mean(off) < 0.02


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=120), st.sampled_from(["", "en", "zh", "ja", "ru", "xx"]), st.text(max_size=40))
def test_spans_of_any_text_are_in_order_apart_and_hold_words(text: str, language: str, exclude: str) -> None:
    got = spans(text, language, exclude=exclude)
    assert all(a.end <= b.start for a, b in pairwise(got))
    assert all(s.words > 0 and s.language in SCRIPTS and 0 <= s.start < s.end <= len(text) for s in got)


HOSTILE = ["a", "a ", "aб", "中a", "かな漢字", "a\u0301", "\u0301", "\ud800", "\u200b", "\u202e", "🙂", "`", "$", "\\["]
HOSTILE += ["<a", "“a", "-a"]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_costs_time_in_proportion_to_its_length(unit: str) -> None:
    spans(ENGLISH, "fr")

    texts = {size: unit * (size // len(unit)) for size in (8_000, 32_000)}
    # quadratic work takes sixteen times as long
    assert grows_within(10, lambda size: spans(texts[size], "en", exclude="a “b” 中 かな"), 8_000, 32_000, least=0.01)


def test_blanked_text_keeps_every_place() -> None:
    text = "see `x = 1` and $a^2$ at https://example.org now"
    assert len(prose(text)) == len(text)
    assert [text[w.start : w.end] for w in words(prose(text))] == ["see", "and", "at", "now"]


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_the_indices_agree_with_the_published_toolkit() -> None:
    """Tags, CMI, M-index and entropy of the README of agoel00/cs_metrics; its two language-independent tags are in no span."""
    sample = tagged("en en hi hi hi hi en en en hi hi")
    assert mixing.cmi(sample) == pytest.approx(45.45454545)
    assert mixing.m_index(sample) == pytest.approx(0.98360656)
    assert mixing.entropy(sample) == pytest.approx(0.99403021)
    assert mixing.i_index(sample) == pytest.approx(3 / 10)
    lengths = [2, 4, 3, 2]
    mean, deviation = statistics.mean(lengths), statistics.pstdev(lengths)
    assert mixing.burstiness(sample) == pytest.approx((deviation - mean) / (deviation + mean))


def test_one_language_is_not_mixed_and_no_word_is_not_graded() -> None:
    pure = tagged("en en en")
    assert (mixing.cmi(pure), mixing.m_index(pure), mixing.i_index(pure), mixing.entropy(pure)) == (0, 0, 0, 0)
    assert mixing.burstiness(pure) is None
    measures = (mixing.cmi, mixing.m_index, mixing.i_index, mixing.entropy, mixing.burstiness)
    assert [measure([]) for measure in measures] == [None] * 5
    assert mixing.corpus_cmi([[]]) is None


def test_equal_parts_of_three_languages_have_an_m_index_of_one() -> None:
    assert mixing.m_index(tagged("en fr de en fr de")) == pytest.approx(1.0)


def test_the_corpus_index_weighs_words_switches_and_mixed_utterances() -> None:
    utterances = [tagged("en en en en"), tagged("hi hi hi en"), tagged("hi hi")]
    inner = (0 + (1 - (3 - 1) / 4) + 0 + 1) / 2
    assert mixing.corpus_cmi(utterances) == pytest.approx(100 / 3 * (inner + 5 / 6))
    assert mixing.corpus_cmi(mixing.lines(tagged("en en en en/hi hi hi en/hi hi"))) == mixing.corpus_cmi(utterances)


def test_a_switch_is_unwarranted_where_nobody_used_or_asked_for_the_language() -> None:
    text = tagged("en zh zh en fr en zh en")
    assert mixing.unwarranted(text, {"en"}) == 3 / 8
    assert mixing.unwarranted(text, {"en", "zh"}) == 1 / 8
    assert mixing.unwarranted(tagged("zh zh"), {"en"}) == 1 / 2


@pytest.mark.parametrize(
    ("tags", "line", "word"),
    [
        ("en en en en en/en en en en en", 1.0, 1.0),
        ("en en en en en/en en en en zh", 1.0, 0.0),
        ("en en en en en/zh zh zh en en", 0.0, None),
        ("en en en en en/zh zh", 1.0, 0.0),
        ("en en", None, None),
    ],
)
def test_a_line_passes_by_its_main_language_and_a_word_only_in_a_reply_whose_lines_pass(
    tags: str, line: float | None, word: float | None
) -> None:
    assert mixing.line_pass(tagged(tags), {"en"}) == line
    assert mixing.word_pass(tagged(tags), {"en"}) == word


def test_the_confusion_pass_rate_is_the_harmonic_mean() -> None:
    assert mixing.lcpr(1.0, 0.5) == pytest.approx(2 / 3)
    assert mixing.lcpr(0.0, 0.0) == 0.0


# --- asked for --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "languages"),
    [
        ("Answer in French, please.", {"fr"}),
        ("Translate the following into German: hello", {"de"}),
        ("translate from German to English", {"en"}),
        ("Reply only in Simplified Chinese", {"zh"}),
        ("翻译成英文：面包", {"en"}),
        ("请用英文回答", {"en"}),
        ("英語で答えてください", {"en"}),
        ("영어로 번역해 주세요", {"en"}),
        ("Réponds en anglais", {"en"}),
        ("Antworte auf Englisch", {"en"}),
        ("Traduce al inglés: pan", {"en"}),
        ("Responda em inglês", {"en"}),
        ("Rispondi in inglese", {"en"}),
        ("Переведи на немецкий", {"de"}),
        ("ответь по-русски", {"ru"}),
    ],
)
def test_a_language_that_is_asked_for_is_seen(prompt: str, languages: set[str]) -> None:
    assert asked_for(prompt) == languages


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Explain what life in German cities is like.",
        "Don't answer in French.",
        "respond, but not in French",
        "不要用英文回答",
        "我用英文名字",
        "Write about French bread",
        "What is French?",
        "in French",
        "write " * 5000,
    ],
)
def test_a_language_that_is_only_mentioned_or_refused_is_not_asked_for(prompt: str) -> None:
    assert asked_for(prompt) == frozenset()


# --- grader -----------------------------------------------------------------------------------------------------------

PARTS = (
    "",
    ".asked",
    ".cmi",
    ".corpus_cmi",
    ".m_index",
    ".i_index",
    ".entropy",
    ".burstiness",
    ".line_pass",
    ".word_pass",
    ".unwarranted",
)


def test_reasoning_and_answer_are_measured_apart_and_weighed_by_words_together() -> None:
    score = graded("面包 好 吃", "four English words here")
    assert score.value == pytest.approx(4 / 8)
    assert (score.parts["reasoning"], score.parts["answer"]) == (0.0, 1.0)
    assert set(score.parts) == {f"{name}{part}" for name in ("reasoning", "answer") for part in PARTS}
    assert (score.parts["reasoning.unwarranted"], score.parts["answer.unwarranted"]) == (1 / 4, 0.0)


def test_mixing_is_seen_in_the_part_where_it_is() -> None:
    parts = graded(f"{ENGLISH} {CHINESE}", ENGLISH).parts
    assert parts["reasoning.cmi"] == pytest.approx(100 * 19 / (19 + 33), abs=3)
    assert (parts["answer.cmi"], parts["answer.word_pass"]) == (0.0, 1.0)
    assert parts["reasoning.line_pass"] == 0.0


def test_the_target_is_the_examples_language_and_quotes_are_forgiven() -> None:
    assert graded("", "面包好吃", language="zh").value == 1.0
    assert graded("", "The word 面包 means bread.", prompt="What is 面包?").value == 1.0


def test_words_in_a_language_the_prompt_asks_for_count_as_the_targets() -> None:
    asked = graded(ENGLISH, FRENCH, prompt="Translate this into French: bread rises")
    assert (asked.value, asked.parts["answer.asked"], asked.parts["reasoning.asked"]) == (1.0, 1.0, 0.0)
    assert asked.parts["answer.unwarranted"] == 0.0
    plain = graded(ENGLISH, FRENCH, prompt="Why does bread rise?")
    assert plain.parts["answer"] == 0.0
    assert plain.parts["answer.unwarranted"] == pytest.approx(1 / 21)


def test_a_language_of_the_prompt_is_no_unwarranted_switch_but_no_target_either() -> None:
    score = graded("", CHINESE, prompt=f"Why is that so? {JAPANESE} 这是什么意思？我不明白你在说什么，请告诉我。")
    assert score.parts["answer"] == 0.0
    assert score.parts["answer.unwarranted"] == 0.0


def test_what_cannot_be_measured_is_not_graded() -> None:
    assert graded("", "hello", language="xx").value is None
    empty = graded("", "42")
    assert (empty.value, set(empty.parts.values())) == (None, {None})


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=120), st.text(max_size=120), st.text(max_size=60), st.sampled_from(["en", "zh", "ru", "ja"]))
def test_every_part_of_any_text_is_in_its_range(reasoning: str, answer: str, prompt: str, language: str) -> None:
    score = graded(reasoning, answer, prompt=prompt, language=language)
    low, high = {".burstiness": -1.0}, {".cmi": 100.0, ".corpus_cmi": 100 * (3 / 2 + 5 / 6), ".entropy": 5.0}
    for name, value in score.parts.items():
        kind = name[name.find(".") :] if "." in name else ""
        assert value is None or low.get(kind, 0.0) <= value <= high.get(kind, 1.0)


def test_the_whole_grader_does_fifty_thousand_words_a_second() -> None:
    example = Example("x", (Message("user", "q"),))
    completions = [Completion(example, f"{ENGLISH} " * 20, f"{ENGLISH} {CHINESE} " * 20)] * 5
    counts = [count_words(t, "en") for c in completions for t in (c.answer, c.reasoning)]
    taken = cpu_seconds(lambda: LanguageConsistency()(completions))
    assert sum(c.total for c in counts if c) / taken > 50_000 / slowness()


# --- the quick way ----------------------------------------------------------------------------------------------------

PLAIN = (
    "The people who asked did not know what it was.",
    "First, we mix it; then we don't wait — we bake it for an hour.",
    "Café owners in São Paulo",
    "Je ne peux pas vous aider.",
    "NASA, AI and I",
    "well-known O'Brien's",
    "a",
    "Ich kann Ihnen dabei leider nicht helfen, und das ist schade.",
    "e\u0301 \u0301x \u200dy",
)


@given(
    st.lists(st.sampled_from([*PLAIN, "\n", "\n\n", "1. ", "-", "'", "α", "你好"]), max_size=12),
    st.sampled_from(["en", "fr", "ms"]),
)
@settings(max_examples=200, deadline=None)
def test_the_quick_way_for_latin_texts_finds_the_spans_of_the_long_one(pieces: list[str], language: str) -> None:
    text = " ".join(pieces)
    quick = language_module._in_target_only(text, language)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_module, "_in_target_only", lambda text, target: None)
        slow = spans(text, language)
    assert quick is None or quick == slow


def test_plain_english_takes_the_quick_way_and_mixed_text_does_not() -> None:
    assert language_module._in_target_only(f"{PLAIN[0]}\n{PLAIN[1]}", "en") is not None
    assert language_module._in_target_only(f"{PLAIN[0]} {PLAIN[7]} {PLAIN[3]}", "en") is None
    assert language_module._in_target_only(f"{PLAIN[0]} 你好", "en") is None


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["en", "fr", "de"]),
    st.sampled_from([frozenset[str](), frozenset({"fr"})]),
)
@settings(deadline=None)
def test_the_parts_of_a_text_in_one_language_are_those_of_any_text(
    lines: list[tuple[int, bool]], language: str, asked: frozenset[str]
) -> None:
    held, line = [], 0
    for n, (words_, breaks) in enumerate(lines):
        line += breaks
        held.append(Span(10 * n, 10 * n + 9, language, words_, line))
    wanted = language_grader._Wanted("en", asked, frozenset({"en"}))
    long = {name.partition(".")[2]: value for name, value in language_grader._parts_of_any("x", held, wanted).items()}
    quick = {name.partition(".")[2]: value for name, value in language_grader._parts("x", held, wanted).items()}
    assert repr(quick) == repr(long)


def test_what_is_remembered_of_words_is_bounded_and_forgetting_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [identify._Leads("Latin", "en"), identify._Leads("Latin", "en")]
    met = [(0, word) for text in PLAIN for word in text.split()] * 3
    whole = [kept[0][m] for m in met]
    monkeypatch.setattr(identify, "REMEMBERED", 5)
    assert [kept[1][m] for m in met] == whole
    assert len(kept[1]) <= 5 < len(kept[0])
