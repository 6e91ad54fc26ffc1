"""A grader that waits for a network reads answers while others are sampled: the same run, sooner, with its errors raised."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")


class Far:
    """A grader behind a network: pays by the answer's letters, but all the same for `flat` prompts; notes who asked it."""

    def __init__(self, *, slow: bool = True, fails: bool = False, flat: Sequence[str] = ()) -> None:
        self.slow, self.fails, self.flat = slow, fails, flat
        self.asked: list[tuple[str, str]] = []
        self.threads: list[bool] = []

    def __call__(self, completions: Sequence[Any], /) -> list[Any]:
        from temper.types import Score

        self.threads.append(threading.current_thread() is threading.main_thread())
        if self.fails:
            raise ConnectionError("nobody is there")
        self.asked += [(c.example.id, c.raw) for c in completions]
        return [Score(0.5 if c.example.id in self.flat else sum(map(ord, c.raw)) % 97 / 97) for c in completions]


def train(folder: Path, out: Path, grader: Any, **settings: Any) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The tiny model trained two steps; its adapter and its rollouts."""
    from safetensors.torch import load_file

    from temper.files import read_rows
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import train_grpo
    from temper.types import Checkpoint, Example, Message, Named

    shape = {"steps": 2, "prompts_per_step": 3, "group": 4, "max_new_tokens": 6, "checkpoint_every": 9, "lora_r": 4, "lr": 1e-2}
    stage = Grpo(rewards={"far": 1.0}, audits=0, temperature=1.0, **{**shape, **settings})
    examples = [Example(f"e{i}", (Message("user", "why " * (i + 1)),)) for i in range(6)]
    context = Context(seed=1, graders={"far": Named("far", grader, "test")})
    checkpoint, _ = train_grpo(stage, examples, Checkpoint(folder), out, context)
    return load_file((checkpoint.path or out) / "adapter_model.safetensors"), read_rows(out / "rollouts.jsonl.zst")


def test_a_slow_grader_is_asked_in_another_thread_about_each_answer_once_and_training_is_the_same(
    tiny_model: Path, tmp_path: Path
) -> None:
    near, far = Far(slow=False), Far()
    wanted, paid = train(tiny_model, tmp_path / "near", near)
    found, also = train(tiny_model, tmp_path / "far", far)
    assert set(near.threads) == {True}
    assert set(far.threads) == {False}
    assert sorted(far.asked) == sorted(set(far.asked)) == sorted(near.asked)
    assert [(r["id"], r["answer"], r["reward"]) for r in paid] == [(r["id"], r["answer"], r["reward"]) for r in also]
    assert all(torch.equal(wanted[k], found[k]) for k in wanted)


def test_answers_that_are_drawn_anew_are_read_ahead_under_their_own_prompts(tiny_model: Path, tmp_path: Path) -> None:
    far = Far(flat=["e0", "e1", "e2"])
    _, rows = train(tiny_model, tmp_path / "far", far, resample=2)
    assert set(far.threads) == {False}
    # one that was read ahead under another prompt would have been asked again, in this thread
    assert len(far.asked) > len(rows), "nothing was drawn anew"


def test_an_error_of_a_slow_grader_stops_the_training(tiny_model: Path, tmp_path: Path) -> None:
    from temper.errors import RunError

    with pytest.raises(RunError, match=r"far.*nobody is there"):
        train(tiny_model, tmp_path / "out", Far(fails=True))


def test_waiting_raises_the_first_error_drops_what_had_not_begun_and_is_over() -> None:
    from temper.train.prefetch import Ahead
    from temper.types import Completion, Example, Message, Named, Score

    gate, asked = threading.Event(), list[str]()

    def grade(completions: Sequence[Completion]) -> list[Score]:
        gate.wait(60)
        asked.extend(c.answer for c in completions)
        raise ConnectionError("nobody is there")

    grade.slow = True  # type: ignore[attr-defined]
    ahead = Ahead([Named("far", grade, "1")])
    example = Example("e", (Message("user", "why?"),))
    for text in ("one", "two", "three"):
        ahead.read(Completion(example, text))
    assert asked == [], "reading ahead waited for the grader"
    gate.set()
    with pytest.raises(ConnectionError, match="nobody is there"):
        ahead.wait()
    ahead.wait()
    assert asked[0] == "one"


def test_an_answer_is_read_while_others_are_still_drawn(tiny_model: Path, tmp_path: Path) -> None:
    from temper.train import trainer

    drawing, heard, seen = threading.Event(), threading.Event(), list[bool]()
    right = trainer.sample

    def sample(*given: Any, **more: Any) -> Any:
        drawing.set()
        try:
            return right(*given, **more)
        finally:
            heard.wait(60)  # whoever was told while it drew is heard on a busy machine too; nobody else comes before it ends
            drawing.clear()

    class Watching(Far):
        def __call__(self, completions: Sequence[Any], /) -> list[Any]:
            seen.append(drawing.is_set())
            heard.set()
            return super().__call__(completions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "sample", sample)
        train(tiny_model, tmp_path, Watching(), max_new_tokens=24)
    assert any(seen)


def test_what_ends_while_a_grader_is_busy_is_its_next_batch() -> None:
    from temper.train.prefetch import Ahead
    from temper.types import Completion, Example, Message, Named, Score

    gate, batches = threading.Event(), list[list[str]]()

    def grade(completions: Sequence[Completion]) -> list[Score]:
        gate.wait(60)
        batches.append([c.answer for c in completions])
        return [Score(1.0) for _ in completions]

    grade.slow = True  # type: ignore[attr-defined]
    ahead = Ahead([Named("far", grade, "1")])
    example = Example("e", (Message("user", "why?"),))
    for text in "abcdefgh":
        ahead.read(Completion(example, text))
    gate.set()
    ahead.wait()
    assert [text for batch in batches for text in batch] == list("abcdefgh")
    assert len(batches) <= 3


def test_the_sampler_tells_of_each_answer_once_with_its_own_tokens(tiny_model: Path) -> None:
    from temper.models.generate import Decoding, sample
    from temper.models.load import eos_ids, load
    from temper.types import Checkpoint

    loaded = load(Checkpoint(tiny_model))
    decoding = Decoding(20, eos_ids(loaded.model, loaded.tokenizer), loaded.tokenizer.pad_token_id)
    uniforms = torch.rand((7, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    heard: list[tuple[int, list[int]]] = []
    prompts = [[65, 66], [67], [68, 69, 70]]
    found = sample(loaded.model, prompts, [2, 4, 1], uniforms, decoding, rows=3, told=lambda row, ids: heard.append((row, ids)))
    drawn = [row.ids for group in found for row in group]
    assert sorted(heard) == sorted(enumerate(drawn))
