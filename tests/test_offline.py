"""vLLM's offline engine as a sampler, over a stand-in for the package: same prompts, splitting and rows as the local model."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from temper import Example, Message
from temper.errors import ModelError
from temper.types import Checkpoint

pytestmark = pytest.mark.train
ASKED = [Example("a", (Message("user", "hi"),)), Example("b", (Message("user", "ho"),))]


@dataclass(kw_only=True)
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass
class LLM:
    """Says what it was told to, in an order of its own; remembers what it was asked."""

    model: str
    tokenizer: str
    enable_prefix_caching: bool
    enable_lora: bool
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=512))

    def generate(
        self, prompts: list[Any], settings: list[SamplingParams], *, use_tqdm: bool, lora_request: Any = None
    ) -> list[Any]:
        self.asked.append((prompts, settings, lora_request))
        return [SimpleNamespace(outputs=[self.output(k) for k in reversed(range(s.n))]) for s in settings]

    def output(self, k: int) -> SimpleNamespace:
        text = ["<think>hm</think>yes", "<think>never", "no"][k % 3]
        return SimpleNamespace(index=k, token_ids=TOKENIZE(text), finish_reason=["stop", "length", "abort"][k % 3])


TOKENIZE: Any = None  # the tiny model's, set by the fixture


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    from temper.models.load import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    monkeypatch.setattr(sys.modules[__name__], "TOKENIZE", lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    package, requests = ModuleType("vllm"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    requests.LoRARequest = lambda name, number, path: (name, number, path)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", requests)


def test_samples_are_split_and_counted_as_those_of_the_local_model(vllm: None, tiny_model: Path) -> None:
    from temper.models.offline import Offline, start

    made = Offline(start(Checkpoint(tiny_model), longest=64), 64)(ASKED, n=3)
    assert [[c.example.id for c in row] for row in made] == [["a"] * 3, ["b"] * 3]
    closed, cut, lost = made[0]
    assert (closed.reasoning, closed.answer, closed.thought, closed.finish) == ("hm", "yes", "closed", "stop")
    assert (cut.answer, cut.thought, cut.finish) == ("", "open", "length")
    assert (lost.finish, lost.error) == ("error", "vllm: the request ended by abort")
    assert closed.usage is not None
    assert (closed.usage.completion_tokens, closed.usage.reasoning_tokens) == (len("<think>hm</think>yes"), 2)


def test_prompts_are_the_tokens_that_the_local_model_reads(vllm: None, tiny_model: Path) -> None:
    from temper.models.load import load_tokenizer, render
    from temper.models.offline import Offline, start

    engine = start(Checkpoint(tiny_model), longest=64)
    Offline(engine, 64)(ASKED)
    prompts, _, adapter = engine.llm.asked[0]
    assert [p["prompt_token_ids"] for p in prompts] == render(load_tokenizer(tiny_model), ASKED)
    assert adapter is None


def test_a_prompt_s_seed_does_not_depend_on_what_is_asked_with_it(vllm: None, tiny_model: Path) -> None:
    from temper.models.offline import Offline, start

    engine = start(Checkpoint(tiny_model), longest=64)
    Offline(engine, 64, seed=1)(ASKED)
    Offline(engine, 64, seed=1)(ASKED[1:])
    Offline(engine, 64, seed=2)(ASKED[1:])
    seeds = [[s.seed for s in settings] for _, settings, _ in engine.llm.asked]
    assert seeds[0][1] == seeds[1][0] != seeds[2][0]
    assert seeds[0][0] != seeds[0][1]


def test_an_adapter_is_asked_for_beside_its_base_and_whole_weights_by_themselves(
    vllm: None, tiny_model: Path, tmp_path: Path
) -> None:
    from temper.models.offline import Offline, start

    (tmp_path / "adapter_config.json").write_text("{}")
    engine = start(Checkpoint(tiny_model, tmp_path), longest=64)
    Offline(engine, 64)(ASKED)
    assert (engine.llm.model, engine.llm.enable_lora) == (str(tiny_model), True)
    assert engine.llm.asked[0][2] == ("adapter", 1, str(tmp_path))
    whole = tmp_path / "whole"
    assert start(Checkpoint(tiny_model, whole), longest=64).llm.model == str(whole)


def test_a_context_too_short_and_a_missing_package_are_model_errors(
    vllm: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.models.offline import start

    with pytest.raises(ModelError, match="context holds 512"):
        start(Checkpoint(tiny_model), longest=4096)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"pip install .*vllm"):
        start(Checkpoint(tiny_model), longest=64)


def test_a_model_after_vllm_is_sampled_by_it_and_is_the_same_model(vllm: None, tiny_model: Path) -> None:
    from temper.models.offline import Offline
    from temper.subject import subject
    from temper.train.recipe import Prove, Recipe

    recipe = Recipe("m", (), {"model": ()}, Prove(max_new_tokens=64))
    asked = subject(f"vllm:{tiny_model}", recipe)
    assert isinstance(asked.sampler(), Offline)
    here = subject(str(tiny_model), recipe)
    assert asked.sha256 == here.sha256
    assert asked.identity != here.identity, "two engines round otherwise: their rows must not be mixed"
