"""log P(answer | prompt) is that of the library's own forward pass, whatever else is asked in the same pass."""

import pytest

from temper.types import Completion, Example, Message, Suite

pytestmark = pytest.mark.train

ASKED = Example("a", (Message("user", "Why?"),), tags=frozenset({"benign"}))


@pytest.fixture(scope="module")
def loaded(tiny_model):
    from temper.models.load import load
    from temper.types import Checkpoint

    return load(Checkpoint(tiny_model))


def slow(loaded, example, text, ended):
    import torch

    from temper.models.load import render

    prompt = render(loaded.tokenizer, [example])[0]
    answer = loaded.tokenizer(text, add_special_tokens=False)["input_ids"] + [loaded.tokenizer.eos_token_id] * ended
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logprobs = torch.log_softmax(loaded.model(input_ids=ids).logits[0].float(), -1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def test_every_answer_has_the_log_probability_of_a_pass_of_its_own(loaded):
    from temper.models.likelihood import likelihood

    answers = [("Because.", True), ("No", False), ("", True), ("A somewhat longer answer.", False)]
    found = likelihood(loaded, ASKED, answers)
    assert [f.logprob for f in found] == pytest.approx([slow(loaded, ASKED, *answer) for answer in answers], abs=1e-3)
    assert [f.tokens for f in found] == [9, 2, 1, 25]


def test_a_decoder_that_cannot_share_prompts_gives_the_same(loaded, monkeypatch):
    from temper.models import likelihood as module

    answers = [("Because.", True), ("No", False)]
    packed = module.likelihood(loaded, ASKED, answers)
    monkeypatch.setattr(module, "unshareable", lambda model: "said so by a test")
    assert [f.logprob for f in module.likelihood(loaded, ASKED, answers)] == pytest.approx([f.logprob for f in packed], abs=1e-3)


def test_an_answer_without_a_token_is_not_scored(loaded):
    from temper.models.likelihood import likelihood

    assert likelihood(loaded, ASKED, [("", False)]) == [(0.0, 0)]


def test_posix_crosses_the_answers_of_every_condition_with_the_prompts_of_every_other(loaded):
    from temper.prove.posix import likelihoods, posix
    from temper.prove.rewrite import rewritten

    plain = Suite("s", tuple(Example(f"e{i}", (Message("user", f"Why {i}?"),), tags=frozenset({"benign"})) for i in range(3)))
    suites = [plain, rewritten(plain, "paraphrase=1"), rewritten(plain, "place=system")]
    rows = [
        {
            "suite": suite.name, "of": suite.of, "id": e.id, "group": e.id, "class": "benign", "sample": 0, "finish": "stop",
            "raw": Completion(e, f"So {suite.name[-1]}.").answer,
        }
        for suite in suites
        for e in suite.examples
        if (suite.of, e.id) != ("s", "e2")
    ]  # fmt: skip
    lines = list(likelihoods(loaded, suites, rows, items=5))
    assert len(lines) == 2 * 3 * 3
    assert {line["of"] for line in lines} == {"s"}
    found = posix(lines)["benign"]
    assert found["n"] == 2
    assert found["value"] > 0


def test_every_condition_has_its_turn_where_there_are_more_than_are_crossed(loaded):
    from temper.prove.posix import CROSSED, likelihoods
    from temper.prove.rewrite import rewritten

    plain = Suite("s", tuple(Example(f"e{i}", (Message("user", f"Why {i}?"),), tags=frozenset({"benign"})) for i in range(3)))
    suites = [plain, *(rewritten(plain, f"paraphrase={level}") for level in (1, 2, 3, 4)), rewritten(plain, "shots=1")]
    rows = [
        {"suite": s.name, "of": s.of, "id": e.id, "group": e.id, "class": "benign", "sample": 0, "finish": "stop", "raw": "So."}
        for s in suites
        for e in s.examples
    ]
    lines = list(likelihoods(loaded, suites, rows))
    assert len(lines) == 3 * CROSSED**2
    assert {line["asked"] for line in lines} == {s.name for s in suites}


def test_conversations_whose_replies_differ_by_condition_are_not_crossed(loaded):
    from temper.prove.posix import likelihoods
    from temper.prove.rewrite import rewritten

    talk = Example("t", (Message("user", "Hi."), Message("user", "Why?")), tags=frozenset({"benign"}))
    plain = Suite("s", (talk, ASKED))
    suites = [plain, rewritten(plain, "paraphrase=1")]
    rows = [
        {"suite": s.name, "of": s.of, "id": e.id, "group": e.id, "class": "benign", "sample": 0, "finish": "stop", "raw": "So."}
        for s in suites
        for e in s.examples
    ]
    assert {line["id"] for line in likelihoods(loaded, suites, rows)} == {"a"}


def test_posix_is_zero_where_every_prompt_is_the_same_prompt(loaded):
    from temper.prove.posix import likelihoods, posix

    plain = Suite("s", (ASKED,))
    twin = Suite("s+x", (ASKED,), of="s", how=("rewrite:paraphrase=1",))
    rows = [
        {"suite": name, "of": "s", "id": "a", "group": "a", "class": "benign", "sample": 0, "finish": "stop", "raw": raw}
        for name, raw in (("s", "Because."), ("s+x", "Why not?"))
    ]
    assert posix(list(likelihoods(loaded, [plain, twin], rows)))["benign"]["value"] == pytest.approx(0, abs=1e-5)


def test_lines_are_written_once_an_address_and_none_for_a_model_elsewhere(loaded, tmp_path, monkeypatch):
    from temper.models.local import Local
    from temper.prove import posix
    from temper.prove.rewrite import rewritten
    from temper.samplers.scripted import Scripted

    plain = Suite("s", (ASKED,))
    suites = [plain, rewritten(plain, "paraphrase=1")]
    rows = [
        {"suite": s.name, "of": s.of, "id": "a", "group": "a", "class": "benign", "sample": 0, "finish": "stop", "raw": "So."}
        for s in suites
    ]
    posix.store(tmp_path / "x", Local(loaded), suites, rows, address="1")
    assert posix.stored(tmp_path / "x", "1")
    assert len(posix.lines(tmp_path / "x")) == 4
    monkeypatch.setattr(posix, "likelihoods", lambda *_, **__: [{"asked anew": True}])
    posix.store(tmp_path / "x", Local(loaded), suites, rows, address="1")
    assert len(posix.lines(tmp_path / "x")) == 4
    posix.store(tmp_path / "x", Local(loaded), suites, rows, address="2")
    assert posix.lines(tmp_path / "x") == [{"asked anew": True}]
    posix.store(tmp_path / "y", Scripted("So."), suites, rows, address="1")
    assert posix.stored(tmp_path / "y", "1")
    assert posix.lines(tmp_path / "y") == []
