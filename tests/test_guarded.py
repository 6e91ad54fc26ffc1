"""A sampler behind a guard, and `temper prove --guard`: model alone beside model + guard, from the same answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from temper import proof
from temper.errors import ProofError, UsageError
from temper.files import read_json, read_rows
from temper.prove import metrics
from temper.samplers.scripted import Scripted
from temper.serve.guard import Guard
from temper.serve.guarded import Guarded, behind
from temper.serve.policy import ChannelPolicy, Policy, Setting
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View
from temper.subject import Asked
from temper.train.recipe import Prove
from temper.types import Completion, Example, Message, Sampler

WORD = "zorblax"


@dataclass(frozen=True, slots=True)
class Finds:
    """A filter that finds one word."""

    word: str = WORD
    name: str = "finds"
    pace: Pace = "window"
    heavy: bool = False
    default_channels: tuple[Channel, ...] = tuple(Channel)
    default_action: Action = Action.BLOCK

    @property
    def reach(self) -> int:
        return len(self.word)

    def __call__(self, view: View, /) -> Sequence[Finding]:
        at = view.text.find(self.word)
        return [Finding("", "word", "made-up", start=at, end=at + len(self.word), why="the made-up word")] if at >= 0 else []

    def canary(self, channel: Channel, /) -> Canary:
        raise NotImplementedError(channel)


def policy(action: Action = Action.BLOCK, *, shadow: bool = False, **channels: ChannelPolicy) -> Policy:
    settings = (Setting("finds", "finds", Finds(), tuple(Channel), action, shadow=shadow),)
    return Policy(name="p", version="v", filters=settings, channels={c: channels.get(str(c), ChannelPolicy()) for c in Channel})


@dataclass
class Heard:
    """A scripted sampler that remembers what it was asked."""

    texts: list[str]
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        self.asked += [tuple(m.content for m in e.messages) for e in examples]
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return Scripted({}, default=text)(examples, n)


def ask(*texts: str) -> list[Example]:
    return [Example(str(i), (Message("user", text),), tags=frozenset({"benign"})) for i, text in enumerate(texts)]


def word(completion: Completion) -> dict[str, Any]:
    return completion.facts["guard"]  # type: ignore[return-value]


def test_what_nothing_finds_passes_word_for_word() -> None:
    plain = Scripted({}, default="<think>Hm.</think>Yes.")
    (one,), (two,) = Guarded(plain, Guard(policy()))(ask("a", "b"))
    assert (one.reasoning, one.answer, one.raw) == ("Hm.", "Yes.", "<think>Hm.</think>Yes.")
    assert word(two) == {"policy": "p@v", "action": "allow", "findings": []}


def test_a_prompt_that_is_blocked_is_never_asked_and_costs_no_token() -> None:
    model = Heard(["Yes."])
    (one,), (two,) = Guarded(model, Guard(policy()))(ask(f"the {WORD}", "b"))
    assert model.asked == [("b",)]
    assert (one.answer, one.usage and one.usage.completion_tokens, two.answer) == ("", 0, "Yes.")
    assert word(one)["finish_reason"] == "content_filter"
    assert word(one)["findings"] == [
        {"filter": "finds", "rule": "word", "category": "made-up", "channel": "input", "action": "block"}
    ]


@pytest.mark.parametrize("text", [f"<think>the {WORD}</think>Yes.", f"<think>Hm.</think>The {WORD}."])
@pytest.mark.parametrize("action", [Action.BLOCK, Action.REVIEW])
def test_a_stop_in_either_channel_withholds_thought_and_answer(action: Action, text: str) -> None:
    ((one,),) = Guarded(Scripted({}, default=text), Guard(policy(action)))(ask("a"))
    assert (one.reasoning, one.answer, one.raw) == ("", "", "")
    assert (word(one)["action"], word(one)["finish_reason"]) == (action.label, "content_filter")


def test_redaction_takes_the_word_out_of_prompt_thought_and_answer() -> None:
    model = Heard([f"<think>a {WORD} b</think>The {WORD}."])
    ((one,),) = Guarded(model, Guard(policy(Action.REDACT)))(ask(f"say {WORD}"))
    assert model.asked == [("say [removed]",)]
    assert (one.reasoning, one.answer) == ("a [removed] b", "The [removed].")
    assert WORD not in one.raw
    assert one.example.prompt == f"say {WORD}"  # graders judge what was asked
    assert "finish_reason" not in word(one)


def test_an_answer_to_be_rewritten_is_asked_for_once_more_with_the_reason() -> None:
    model = Heard([f"the {WORD}", "fine"])
    ((one,),) = Guarded(model, Guard(policy(Action.REWRITE)))(ask("a"))
    assert one.answer == "fine"
    assert "the made-up word" in model.asked[1][0]
    ((two,),) = Guarded(Heard([f"the {WORD}"]), Guard(policy(Action.REWRITE)))(ask("a"))
    assert (two.answer, word(two)["finish_reason"]) == ("", "content_filter")


def test_shadow_and_observed_channels_are_written_down_and_change_nothing() -> None:
    text = f"the {WORD}"
    for guard in (Guard(policy(shadow=True)), Guard(policy(content=ChannelPolicy(mode="observe")))):
        ((one,),) = Guarded(Scripted({}, default=text), guard)(ask("a"))
        assert (one.answer, word(one)["action"], len(word(one)["findings"])) == (text, "allow", 1)


@pytest.mark.parametrize(("treat", "stopped"), [("hide", True), ("summarise", True), ("drop", False)])
def test_a_thought_that_is_not_shown_is_not_delivered(treat: Any, stopped: bool) -> None:
    guard = Guard(policy(reasoning=ChannelPolicy(policy=treat)))
    (clean,), (bad,) = Guarded(Scripted({"a": "<think>Hm.</think>Yes.", "b": f"<think>{WORD}</think>Yes."}), guard)(ask("a", "b"))
    assert (clean.reasoning, clean.answer, clean.thought) == ("", "Yes.", "closed")
    assert bad.answer == ("" if stopped else "Yes.")
    assert WORD not in bad.raw


def test_an_answer_that_never_came_stays_an_error_behind_the_guard() -> None:
    failed = Completion(ask("a")[0], "", finish="error", error="down")
    (one,) = behind(Guard(policy()), [failed])
    assert (one.finish, one.error) == ("error", "down")


def test_a_guarded_sampler_is_a_sampler() -> None:
    sampler: Sampler = Guarded(Scripted({}, default="Yes."), Guard(policy()))
    assert [len(n) for n in sampler(ask("a", "b", WORD), 3)] == [3, 3, 3]


# --- temper prove --guard ----------------------------------------------------------------------------------------------

JUDGE = """
from temper import Score

def judge(completions):
    return [Score(None, "empty response") if not c.answer else
            Score(0.9 if "harm" in c.answer else 0.1, parts={"threshold": 0.5}) for c in completions]

judge.better = "low"
"""


@pytest.fixture
def proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Half of the answers hold harm, half of those the word; one harmless prompt in three is answered with the word."""
    (tmp_path / "mine.py").write_text(JUDGE)
    texts = iter(range(10**6))

    def answer(example: Example) -> str:
        number = next(texts)
        if "harmful" in example.tags:
            return "plain" if number % 2 else f"harm {WORD}" if number % 4 else "harm"
        return WORD if number % 3 == 0 else "gladly, here it is"

    prove = Prove(gold=f"{tmp_path / 'mine.py'}:judge", standard=False, limit=24)
    monkeypatch.setattr(proof, "subject", lambda *a, **k: Asked("x", lambda: Scripted(answer), 0))
    monkeypatch.setattr(proof, "policed", lambda given: Guard(policy()))
    return proof.prove_model("http://none/v1#m", ["harm", "benign"], out=tmp_path / "run", prove=prove, guard="p")


def test_a_proof_with_a_guard_tells_both_rates_of_both_arms_from_the_same_answers(proved: Path) -> None:
    alone, guarded = (
        [row for name in ("harm", "benign") for row in read_rows(proved / "evals" / f"{name}@{arm}" / "rows.jsonl")]
        for arm in ("model", "model+guard")
    )
    for before, after in zip(alone, guarded, strict=True):
        stopped = WORD in before["answer"]
        assert after["answer"] == ("" if stopped else before["answer"])
        assert after["outcome"] == ("refused" if stopped else before["outcome"])
    told = read_json(proved / "summary.json")["guard"]
    arms = told["arms"]
    assert (arms["model"]["unsafe"]["value"], arms["model+guard"]["unsafe"]["value"]) == (0.5, 0.25)
    assert arms["model+guard"]["unsafe"]["n"] == 24  # what was withheld is not unsafe, and is not left out
    assert (arms["model"]["rejected_harmful"]["value"], arms["model+guard"]["rejected_harmful"]["value"]) == (0.0, 0.25)
    assert arms["model+guard"]["rejected_benign"]["value"] == pytest.approx(1 / 3, abs=0.05)
    assert arms["model"]["withheld"]["value"] == 0.0
    guard = told["guards"]["model+guard"]
    assert guard["policies"] == ["p@v"]
    assert (guard["caught"]["value"], guard["caught"]["n"]) == (0.5, 12)
    assert guard["lost"]["value"] == pytest.approx(1 / 3, abs=0.05)
    assert guard["filters"] == [
        {"filter": "finds", "category": "made-up", "channel": "content", "action": "block", "n": guard["actions"]["block"]}
    ]
    changed = next(p for p in told["pairs"] if p["metric"] == "unsafe")
    assert (changed["base"], changed["arm"], changed["n"], changed["difference"]) == ("model", "model+guard", 24, -0.25)


def test_the_report_puts_unsafe_and_rejected_side_by_side(proved: Path) -> None:
    page = next(proved.glob("*.md")).read_text()
    assert "Model alone and behind the guard" in page
    lead = next(line for line in page.splitlines() if line.startswith("model: "))
    assert "50.0" in lead and "25.0" in lead and "over-refusal" in lead
    assert "Which filters had a part" in page


def test_a_second_policy_asks_the_model_nothing(proved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*a: object, **k: object) -> Asked:
        def load() -> Sampler:
            raise AssertionError("the model was loaded")

        return Asked("x", load, 0)

    monkeypatch.setattr(proof, "subject", never)
    monkeypatch.setattr(proof, "policed", lambda given: Guard(replace(policy(shadow=True), version="w")))
    facts = read_json(proved / "run.json")["recipe"]["prove"]
    prove = Prove(gold=facts["gold"], standard=False, limit=24)
    proof.prove_model("http://none/v1#m", ["harm", "benign"], out=proved, prove=prove, guard="q")
    told = read_json(proved / "summary.json")["guard"]
    assert told["guards"]["model+guard"]["policies"] == ["p@w"]
    assert told["arms"]["model+guard"]["unsafe"]["value"] == 0.5


def test_a_gateway_is_proved_beside_the_model_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(JUDGE)
    model = Scripted({}, default=f"harm {WORD}")
    who = {"http://up/v1#m": model, "http://gate/v1#m": Guarded(model, Guard(policy()))}
    monkeypatch.setattr(proof, "subject", lambda name, *a, **k: Asked(name, lambda: who[name], 0))
    prove = Prove(gold=f"{tmp_path / 'mine.py'}:judge", standard=False, limit=6)
    run = proof.prove_model("http://gate/v1#m", ["harm"], out=tmp_path / "run", prove=prove, alone="http://up/v1#m")
    arms = read_json(run / "summary.json")["guard"]["arms"]
    assert (arms["model"]["unsafe"]["value"], arms["model+guard"]["unsafe"]["value"]) == (1.0, 0.0)


def test_guard_and_alone_exclude_each_other_and_alone_wants_a_gateway(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either"):
        proof.prove_model("http://g/v1#m", ["harm"], out=tmp_path, guard="chat", alone="http://u/v1#m")
    with pytest.raises(UsageError, match="no gateway"):
        proof.prove_model("smollm2-135m", ["harm"], out=tmp_path, alone="http://u/v1#m")


def test_a_filter_of_the_policy_is_no_judge_of_what_it_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "subject", lambda *a, **k: Asked("x", lambda: Scripted({}, default="Yes."), 0))
    file = tmp_path / "p.toml"
    file.write_text("[filters.harm]")
    with pytest.raises(ProofError, match="'harm' is also the filter 'harm'"):
        proof.prove_model("http://u/v1#m", ["harm"], out=tmp_path / "run", prove=Prove(gold="harm"), guard=str(file))


def test_a_reply_in_which_only_the_guard_speaks_is_withheld_and_one_cut_by_it_is_read() -> None:
    guard = {"finish_reason": "content_filter", "withheld": True}
    assert metrics.withheld({"answer": "This answer was withheld.", "facts": {"guard": guard}})
    assert not metrics.withheld({"answer": "half of an", "facts": {"guard": {"finish_reason": "content_filter"}}})
    assert not metrics.withheld({"answer": ""})


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "guarded.md").read_text(encoding="utf-8")
    exec(page.partition("```python\n")[2].partition("```")[0], {})
