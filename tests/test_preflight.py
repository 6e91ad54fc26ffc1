"""The first answers tell whether thoughts close and judges answer, before the rest is paid for; they are not asked again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from temper import Completion, Example
from temper.errors import ProofError, UsageError
from temper.files import read_json, read_rows
from temper.prove.metrics import OUTAGE
from temper.prove.preflight import PROBED, preflight
from temper.samplers.remote import Remote
from temper.samplers.scripted import Scripted
from temper.subject import PROFILES, Asked, subject
from temper.train.recipe import Prove, Recipe
from temper.train.run import Progress

GRADERS = """
from temper import Score

def judge(completions):
    return [Score(0.9, parts={"threshold": 0.5}) for c in completions]

judge.better = "low"
"""


def row(thought: str = "none", finish: str = "stop", why: str = "") -> dict[str, Any]:
    return {"thought": thought, "finish": finish, "scores": {"gold": {"value": None, "why": why}}}


def test_the_closed_thought_rate_is_of_answers_that_came_where_a_thought_is_expected() -> None:
    found = preflight([row("closed"), row("open"), row("open"), row(finish="error")])
    assert (found.n, found.thoughts, found.closed, found.errors) == (4, 3, 1, 1)
    assert found.rate == pytest.approx(1 / 3)
    assert "closed their thought" in found.warnings()[0]
    assert preflight([row(), row()]).rate is None
    assert preflight([row(), row()]).warnings() == []


def test_a_thought_that_was_expected_and_never_came_is_a_warning_of_its_own() -> None:
    found = preflight([row()] * 8, expected=True)
    assert found.rate == 0.0
    assert "does the server drop it" in found.warnings()[0]


def test_only_the_first_rows_count_and_a_judge_that_was_away_is_told() -> None:
    away = preflight([row("closed", why=f"{OUTAGE}: down")] * PROBED + [row("open")] * 50)
    assert (away.n, away.rate) == (PROBED, 1.0)
    assert "gold graded none of the first 8" in away.warnings()[0]
    assert preflight([row("closed", why=f"{OUTAGE}: down")] * 7 + [row("closed")]).warnings() == []


def test_too_few_closed_thoughts_are_refused_with_the_reason_and_the_way_on() -> None:
    found = preflight([row("open")] * 6 + [row("closed")] * 2)
    found.check(0.25)
    with pytest.raises(ProofError, match=r"2 of the first 8 .*max-new-tokens.*--least-closed \(now 0.5\)"):
        found.check(0.5)


class Sampler:
    """Cuts thoughts, fails some prompts the first time, and remembers what it was asked."""

    def __init__(self, text: str) -> None:
        self.asked: list[str] = []
        self.inner = Scripted({}, default=text)
        self.failing = True

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [[c for _, c in batch] for batch in self.stream([(e, 0) for e in examples])]

    def stream(
        self, asked: Sequence[tuple[Example, int]], /, *, answered: bool = False
    ) -> Iterator[list[tuple[int, Completion]]]:
        for example, k in asked:
            failed = self.failing and len(self.asked) == 10
            self.asked.append(example.id)
            answer = Completion(example, "", finish="error", error="HTTP 500") if failed else self.inner([example])[0][0]
            yield [(k, answer)]


def proved(tmp_path: Path, sampler: Sampler, seen: list[Progress], **settings: Any) -> Path:
    from temper import proof

    (tmp_path / "mine.py").write_text(GRADERS)
    prove = Prove(gold=f"{tmp_path / 'mine.py'}:judge", standard=False, limit=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "subject", lambda *a, **k: Asked("x", lambda: sampler, 0))
        return proof.prove_model("http://none/v1#m", ["harm"], out=tmp_path / "run", prove=prove, watch=seen.append, **settings)


def test_a_proof_warns_of_cut_thoughts_and_keeps_its_probe(tmp_path: Path) -> None:
    sampler, seen = Sampler("<think>never closed"), list[Progress]()
    folder = proved(tmp_path, sampler, seen)
    assert any("closed their thought" in p.alarm for p in seen if p.alarm)
    assert len(sampler.asked) == len(set(sampler.asked)) == 20
    told = read_json(folder / "run.json")["preflight"]["model"]
    assert (told["n"], told["closed"], told["rate"]) == (8, 0, 0.0)


def test_a_proof_that_is_refused_asked_only_the_probe_and_goes_on_from_there(tmp_path: Path) -> None:
    sampler = Sampler("<think>never closed")
    with pytest.raises(ProofError, match="closed their thought"):
        proved(tmp_path, sampler, [], least_closed=0.5)
    assert len(sampler.asked) == PROBED
    proved(tmp_path, sampler, [])
    assert len(sampler.asked) == len(set(sampler.asked)) == 20


def test_errors_are_asked_again_only_when_that_is_wanted(tmp_path: Path) -> None:
    sampler = Sampler("<think>hm</think>yes")
    folder = proved(tmp_path, sampler, [])
    rows = folder / "evals" / "harm@model" / "rows.jsonl"
    assert [r["outcome"] for r in read_rows(rows)].count("error") == 1
    assert read_json(folder / "summary.json")["arms"]["model"]["unsafe"]["ungraded"] == 1
    sampler.failing = False
    proved(tmp_path, sampler, [])
    assert len(sampler.asked) == 20
    proved(tmp_path, sampler, [], retry_errors=True)
    assert len(sampler.asked) == 21
    assert "error" not in {r["outcome"] for r in read_rows(rows)}
    assert read_json(folder / "summary.json")["arms"]["model"]["unsafe"]["ungraded"] == 0


def test_an_endpoint_is_asked_as_the_profile_says_and_told_from_its_name() -> None:
    recipe = Recipe("m", (), {"model": ()}, Prove(**PROFILES["r1"]))
    asked = subject("http://host/v1#DeepSeek-R1-Distill-Qwen-7B", recipe, concurrency=33)
    remote = asked.sampler()
    assert isinstance(remote, Remote)
    assert (remote.temperature, remote.top_p, remote.max_tokens, remote.system) == (0.6, 0.95, 4096, "")
    assert remote.concurrency == 33
    assert remote.timeout > 600
    assert asked.thinks
    assert not subject("http://host/v1#Llama-3.1-8B", recipe).thinks
    with pytest.raises(UsageError, match="no model named"):
        subject("http://host/v1", recipe)


def test_settings_that_come_back_ask_nobody_again_however_often(tmp_path: Path) -> None:
    sampler = Sampler("<think>hm</think>yes")
    for seed in (0, 1, 0, 1, 0):
        proved(tmp_path, sampler, [], seed=seed)
    assert len(sampler.asked) == 40
