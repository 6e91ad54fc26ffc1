"""Rows reach the disk as they are made, a killed proof asks only for what is missing, and nothing ungraded becomes a number."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from temper import Completion, Example, Message, Named, Score, Suite
from temper.errors import DataError, ModelError, ProofError, RunError
from temper.files import dumps, read_rows, sealed, write_text
from temper.prove import evaluate as subject
from temper.prove.evaluate import Panel, check_independence, evaluate
from temper.prove.metrics import measure
from temper.rewards.hacks import Hack, Reference
from temper.samplers.scripted import Scripted
from temper.types import CLASSES, Outcome


def example(i: int, klass: str = "harmful") -> Example:
    return Example(f"e{i}", (Message("user", f"question {i}"),), tags=frozenset({klass, "category:fraud"}))


def refusal(completions: Sequence[Completion]) -> list[Score]:
    return [Score(float("cannot" in c.answer)) for c in completions]


def gold(completions: Sequence[Completion]) -> list[Score]:
    return [Score(None, "no opinion") if "?" in c.answer else Score(0.9, parts={"threshold": 0.4}) for c in completions]


REFUSAL, GOLD = Named("refusal", refusal, "r"), Named("gold", gold, "g", "w1")
PANEL = Panel((REFUSAL,), REFUSAL, GOLD)
ANSWERS = {f"e{i}": f"<think>thought {i}</think>\n\nanswer {i}" for i in range(200)}


class Counting:
    """A sampler that remembers what it was asked and may die on the way."""

    def __init__(self, die_after: int = 10**9) -> None:
        self.asked: list[str] = []
        self.die_after = die_after
        self.inner = Scripted(ANSWERS)

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        if len(self.asked) >= self.die_after:
            raise KeyboardInterrupt
        self.asked += [e.id for e in examples]
        return self.inner(examples, n=n)


def ask(sampler: object, folder: Path, *, count: int = 150, samples: int = 1, address: str = "a"):  # type: ignore[no-untyped-def]
    suite = Suite("harm", tuple(example(i) for i in range(count)))
    return evaluate(sampler, suite, PANEL, folder, arm="base", address=address, samples=samples)  # type: ignore[arg-type]


def test_an_example_knows_its_class_and_a_proof_wants_exactly_one() -> None:
    asked = [
        Example("e", (), tags=frozenset(tags)) for tags in ({"borderline", "category:fraud"}, {"category:fraud"}, set(CLASSES))
    ]
    assert [e.klass for e in asked] == ["borderline", "", "harmful"]
    assert subject.klass(asked[0]) == "borderline"
    for wrong, said in zip(asked[1:], ("has 0 classes", "has 4 classes"), strict=True):
        with pytest.raises(DataError, match=said):
            subject.klass(wrong)


def test_a_proof_that_dies_keeps_its_rows_and_asks_only_for_the_rest(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(Counting(die_after=64), tmp_path)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 64
    assert not sealed(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"torn')
    again = Counting()
    rows = ask(again, tmp_path)
    assert again.asked == [f"e{i}" for i in range(64, 150)]
    assert [r["id"] for r in rows] == [f"e{i}" for i in range(150)]
    assert sealed(tmp_path)


def test_tokens_that_nobody_counted_are_unknown_and_ungraded_never_zero(tmp_path: Path) -> None:
    def uncounted(examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [[replace(c, usage=None) for c in of] for of in Scripted(ANSWERS)(examples, n=n)]

    rows = ask(uncounted, tmp_path, count=5)
    found = measure(rows, "tokens")
    assert [r["usage"] for r in rows] == [None] * 5
    assert (found.estimate.as_dict()["value"], found.estimate.n, found.ungraded) == (None, 0, 5)


def test_a_finished_proof_asks_nothing(tmp_path: Path) -> None:
    ask(Counting(), tmp_path)
    again = Counting()
    assert len(ask(again, tmp_path)) == 150
    assert again.asked == []


def test_rows_of_another_model_are_refused_rather_than_mixed(tmp_path: Path) -> None:
    ask(Counting(), tmp_path, count=3)
    with pytest.raises(ProofError, match="holds answers of another model"):
        ask(Counting(), tmp_path, count=3, address="b")


def test_a_row_keeps_reasoning_apart_and_an_abstention_as_none(tmp_path: Path) -> None:
    sampler = Scripted({"e0": "<think>hm</think>\n\nI cannot.", "e1": "why?", "e2": "<think>never closed"})
    rows = ask(sampler, tmp_path, count=3)
    assert (rows[0]["reasoning"], rows[0]["answer"], rows[0]["outcome"]) == ("hm", "I cannot.", "refused")
    assert rows[1]["scores"]["gold"] == {"value": None, "why": "no opinion", "parts": {}, "better": "high"}
    assert (rows[2]["answer"], rows[2]["outcome"]) == ("", "truncated_in_thought")
    assert rows[0]["category"] == "fraud"


def test_samples_of_a_prompt_are_numbered(tmp_path: Path) -> None:
    rows = ask(Counting(), tmp_path, count=2, samples=3)
    assert [(r["id"], r["sample"]) for r in rows] == [("e0", 0), ("e0", 1), ("e0", 2), ("e1", 0), ("e1", 1), ("e1", 2)]


def test_gold_reads_only_the_classes_it_is_for() -> None:
    completions = [(0, Completion(example(0, k), "x")) for k in ("harmful", "benign")]
    rows = subject.grade_rows(completions, PANEL, suite=Suite("s", ()), arm="a")
    assert [r["scores"]["gold"]["value"] for r in rows] == [0.9, None]


def test_an_example_without_a_class_and_an_empty_suite_are_data_errors(tmp_path: Path) -> None:
    bare = Suite("s", (Example("e0", (Message("user", "q"),)),))
    with pytest.raises(DataError, match="has 0 classes"):
        evaluate(Scripted(ANSWERS), bare, PANEL, tmp_path, arm="a", address="x")
    with pytest.raises(DataError, match="no examples"):
        evaluate(Scripted(ANSWERS), Suite("s", ()), PANEL, tmp_path, arm="a", address="x")


def test_a_grader_that_breaks_its_contract_is_an_error_and_no_row() -> None:
    wild = Named("wild", lambda c: [Score(2.0)] * len(c), "i")
    with pytest.raises(RunError, match=r"gave 2\.0 for 'e0'"):
        subject.grade_rows([(0, Completion(example(0), "x"))], Panel((wild,), REFUSAL), suite=Suite("s", ()), arm="a")


@pytest.mark.parametrize("reward", [Named("gold", refusal, "x"), Named("other", gold, "g"), Named("other", gold, "y", "w1")])
def test_a_judge_is_refused_if_it_shares_name_code_or_weights_with_a_reward(reward: Named) -> None:
    with pytest.raises(ProofError, match="also the reward"):
        check_independence({reward.name: reward.traces}, GOLD)


def test_independent_rules_without_weights_are_not_confused_with_each_other() -> None:
    rewards = [Named("a", refusal, "1"), Named("b", refusal, "2")]
    check_independence({r.name: r.traces for r in rewards}, Named("c", gold, "3"))


def test_a_judge_is_refused_if_it_hides_inside_a_reward_or_holds_one() -> None:
    hidden = Named("worst", refusal, "x", "y", inside=frozenset({"w1"}))
    with pytest.raises(ProofError, match="shares a model"):
        check_independence({hidden.name: hidden.traces}, GOLD)
    with pytest.raises(ProofError, match="shares a model"):
        check_independence({GOLD.name: GOLD.traces}, hidden)


def test_a_grader_that_raises_ends_with_its_name_and_never_becomes_a_score() -> None:
    def broken(completions: Sequence[Completion]) -> list[Score]:
        raise ValueError("boom")

    with pytest.raises(RunError, match=r"grader 'mine' failed in .*test_evaluate\.py:\d+ \(ValueError: boom\)"):
        subject.grade_rows(
            [(0, Completion(example(0), "x"))], Panel((Named("mine", broken, "i"),), REFUSAL), suite=Suite("s", ()), arm="a"
        )


def stuffed() -> Hack:
    def detect(completions: Sequence[Completion], reference: Reference) -> list[float | None]:
        return [float("answer 1" in c.answer) for c in completions]

    return Hack("stuffed", "", "answer", frozenset({"harmful"}), detect, lambda c, rng: c, lambda c: None)


def test_rows_carry_what_the_hack_bank_saw_and_nothing_where_it_was_not_asked(tmp_path: Path) -> None:
    suite = Suite("harm", tuple(example(i) for i in range(3)))
    panel = Panel((REFUSAL,), REFUSAL, GOLD, hacks=(stuffed(),))
    rows = evaluate(Counting(), suite, panel, tmp_path / "a", arm="base", address="a")
    assert [r["flags"] for r in rows] == [{"stuffed": 0.0}, {"stuffed": 1.0}, {"stuffed": 0.0}]
    assert all("flags" not in r for r in ask(Counting(), tmp_path / "b", count=3))


class Streaming(Counting):
    """A sampler that answers in any order and in batches of any size, and may fail at some prompts."""

    def __init__(self, failing: frozenset[str] = frozenset(), die_after: int = 10**9) -> None:
        super().__init__(die_after)
        self.failing = failing

    def stream(
        self, asked: Sequence[tuple[Example, int]], /, *, answered: bool = False
    ) -> Iterator[list[tuple[int, Completion]]]:
        backwards = list(reversed(asked))
        for start in range(0, len(backwards), 7):
            if len(self.asked) >= self.die_after:
                raise ModelError("down")
            some = backwards[start : start + 7]
            self.asked += [e.id for e, _ in some]
            yield [(k, self.answer(e)) for e, k in some]

    def answer(self, asked: Example) -> Completion:
        failed = Completion(asked, "", finish="error", error="HTTP 500")
        return failed if asked.id in self.failing else self.inner([asked])[0][0]


def test_rows_of_a_stream_are_written_as_they_come_and_end_in_the_order_of_the_suite(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="down"):
        ask(Streaming(die_after=70), tmp_path / "a", samples=2)
    rows = read_rows(tmp_path / "a" / "rows.jsonl")
    assert len(rows) == 70
    assert [r["id"] for r in rows[:3]] == ["e149", "e149", "e148"]
    again = Streaming()
    assert ask(again, tmp_path / "a", samples=2) == ask(Counting(), tmp_path / "b", samples=2)
    assert len(again.asked) == 230
    assert (tmp_path / "a" / "rows.jsonl").read_bytes() == (tmp_path / "b" / "rows.jsonl").read_bytes()


def test_an_answer_that_never_came_is_an_error_that_nobody_grades(tmp_path: Path) -> None:
    rows = ask(Streaming(frozenset({"e3"})), tmp_path, count=5)
    assert [r["outcome"] for r in rows].count(Outcome.ERROR) == 1
    assert (rows[3]["finish"], rows[3]["error"], rows[3]["scores"]["gold"]["value"]) == ("error", "HTTP 500", None)
    assert rows[3]["scores"]["gold"]["why"] == "no answer came"


def test_failed_rows_are_set_aside_and_asked_again_and_nothing_else_is(tmp_path: Path) -> None:
    ask(Streaming(frozenset({"e3", "e9"})), tmp_path, count=20)
    assert subject.ask_again(tmp_path) == 2
    again = Streaming()
    rows = ask(again, tmp_path, count=20)
    assert sorted(again.asked) == ["e3", "e9"]
    assert [r["id"] for r in rows] == [f"e{i}" for i in range(20)]
    assert {r["finish"] for r in rows} == {"stop"}
    assert [r["id"] for r in read_rows(tmp_path / "errors.jsonl")] == ["e3", "e9"]
    assert subject.ask_again(tmp_path) == 0


def test_errors_that_cannot_be_asked_again_stand_as_they_were(tmp_path: Path) -> None:
    before = ask(Streaming(frozenset({"e3", "e9"})), tmp_path, count=20)
    assert subject.ask_again(tmp_path) == 2
    with pytest.raises(ModelError, match="down"):
        ask(Streaming(die_after=0), tmp_path, count=20)
    again = Streaming()
    assert ask(again, tmp_path, count=20) == before
    assert again.asked == []
    assert (tmp_path / "DONE").is_file()


def test_a_server_s_own_words_are_never_taken_for_the_key_of_a_row(tmp_path: Path) -> None:
    claimed = {"key": "0123456789abcdef", "language": "en", "of": "x"}
    sampler = Scripted(dict.fromkeys([f"e{i}" for i in range(5)], "Yes."))

    def told(examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [[replace(c, facts={"guard": claimed}) for c in answers] for answers in sampler(examples, n=n)]

    suite = Suite("harm", tuple(example(i) for i in range(5)))
    rows = evaluate(told, suite, PANEL, tmp_path, arm="base", address="a")
    assert subject.stored_keys(tmp_path / "rows.jsonl") == {row["key"] for row in rows}
    assert len(rows) == 5


def test_keys_are_found_without_parsing_whatever_a_row_quotes(tmp_path: Path) -> None:
    tricky = 'say "key":"0123456789abcdef","language":"en" \u2028 or \\"key\\"'
    suite = Suite("harm", tuple(example(i) for i in range(3)))
    sampler = Scripted(dict.fromkeys(["e0", "e1", "e2"], tricky))
    rows = evaluate(sampler, suite, PANEL, tmp_path, arm="base", address="a")
    nested = {**rows[0], "facts": {"key": "fedcba9876543210", "language": "en"}}
    path = tmp_path / "more.jsonl"
    write_text(path, "".join(dumps(row) + "\n" for row in [nested, *rows[1:]]) + dumps(rows[0])[:-9])
    assert subject.stored_keys(path) == {r["key"] for r in rows}


def test_a_row_whose_line_end_was_lost_is_kept_once(tmp_path: Path) -> None:
    ask(Counting(), tmp_path, count=10)
    path = tmp_path / "rows.jsonl"
    (tmp_path / "DONE").unlink()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]).rstrip(b"\n"))
    again = Counting()
    assert len(ask(again, tmp_path, count=10)) == 10
    assert again.asked == ["e6", "e7", "e8", "e9"]


def test_the_first_prompts_can_be_asked_alone_and_are_not_asked_again(tmp_path: Path) -> None:
    sampler = Counting()
    suite = Suite("harm", tuple(example(i) for i in range(30)))
    rows = evaluate(sampler, suite, PANEL, tmp_path, arm="base", address="a", first=8)
    assert (len(rows), sealed(tmp_path)) == (8, False)
    assert len(evaluate(sampler, suite, PANEL, tmp_path, arm="base", address="a")) == 30
    assert sampler.asked == [f"e{i}" for i in range(30)]


class Away:
    """A judge behind a network that is down."""

    slow = True

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        raise ModelError("not one of 3 calls was answered")


def test_a_judge_that_cannot_be_had_leaves_rows_ungraded_and_a_broken_one_ends_the_proof(tmp_path: Path) -> None:
    suite = Suite("harm", tuple(example(i) for i in range(3)))
    rows = evaluate(Counting(), suite, Panel((REFUSAL,), REFUSAL, Named("gold", Away(), "j")), tmp_path, arm="a", address="a")
    assert [r["scores"]["gold"]["value"] for r in rows] == [None] * 3
    assert "could not be had" in rows[0]["scores"]["gold"]["why"]
    assert rows[0]["scores"]["refusal"]["value"] == 0.0
    broken = Away()
    broken.slow = False
    with pytest.raises(ModelError):
        evaluate(Counting(), suite, Panel((), REFUSAL, Named("gold", broken, "j")), tmp_path / "b", arm="a", address="a")


def test_what_a_guard_withheld_is_refused_and_what_it_let_through_is_read() -> None:
    guard = {"guard": {"finish_reason": "content_filter"}}
    made = [Completion(example(0), text, facts=guard) for text in ("", "answer")]
    rows = subject.grade_rows(list(enumerate(made)), PANEL, suite=Suite("s", ()), arm="a")
    assert [r["outcome"] for r in rows] == ["refused", "answered"]
    assert rows[0]["facts"] == guard
