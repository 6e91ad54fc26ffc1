"""A model in vLLM's offline engine as a `Sampler`: the same prompts, splitting and rows as the model in this process.

The whole chunk goes into the engine at once, which batches it as it can; prompts are tokens, written by the same template.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar

from temper.errors import ModelError
from temper.files import digest
from temper.models.load import load_tokenizer, opens_thought, render
from temper.models.local import completion, thought_tokens
from temper.types import Checkpoint, Completion, Example, Usage

_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class Engine:
    """vLLM's `LLM`, the tokenizer that writes its prompts, whether its template opens the thought, and the adapter to use."""

    llm: Any
    tokenizer: Any
    opened: bool
    adapter: Any = None


@dataclass(frozen=True, slots=True)
class Offline:
    """Sample with vLLM. The seed of a prompt's samples is of the run's seed and the prompt alone, whatever is asked with it."""

    engine: Engine
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    # prompts at once: the engine's batches never run empty before a chunk ends, and a crash loses minutes
    chunk: ClassVar[int] = 1024
    # a prefill is in the tokens it goes on from
    continues: ClassVar[bool] = True

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        prompts = render(self.engine.tokenizer, examples)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        settings = [self._settings(example, n) for example in examples]
        adapter = {} if self.engine.adapter is None else {"lora_request": self.engine.adapter}
        started = time.perf_counter()
        replies = self.engine.llm.generate(asked, settings, use_tqdm=False, **adapter)
        seconds = (time.perf_counter() - started) / max(1, n * len(examples))
        return [
            [self._completion(example, output, len(prompt), seconds) for output in sorted(reply.outputs, key=lambda o: o.index)]
            for example, prompt, reply in zip(examples, prompts, replies, strict=True)
        ]

    def _settings(self, example: Example, n: int) -> Any:
        seed = int(digest([self.seed, example.id]), 16) % _SEEDS
        top_p = 1.0 if self.temperature == 0 else self.top_p
        return import_module("vllm").SamplingParams(
            n=n, temperature=self.temperature, top_p=top_p, max_tokens=self.max_new_tokens, seed=seed
        )

    def _completion(self, example: Example, output: Any, prompt_tokens: int, seconds: float) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            return Completion(example, "", finish="error", error=f"vllm: the request ended by {output.finish_reason}")
        raw = self.engine.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        made = completion(example, raw, ended=output.finish_reason == "stop", opened=self.engine.opened)
        thought = thought_tokens(self.engine.tokenizer, made.reasoning)
        return replace(made, usage=Usage(prompt_tokens, len(output.token_ids), seconds, thought))


def start(checkpoint: Checkpoint, *, longest: int, chat_template: str | None = None) -> Engine:
    """vLLM with a checkpoint's weights, its adapter beside them. Raises `ModelError` if vLLM is not installed or cannot start.

    Prefix caching is on: the samples of a prompt, and prompts that begin alike, share what was read.
    """
    try:
        engine = import_module("vllm").LLM
    except ImportError as error:
        raise ModelError(f'vllm: is not installed ({error}); pip install "temper-llm[train,vllm]", or leave out vllm:') from None
    adapter = checkpoint.path is not None and (checkpoint.path / "adapter_config.json").is_file()
    folder = checkpoint.base if adapter or checkpoint.path is None else checkpoint.path
    tokenizer = load_tokenizer(checkpoint.base, chat_template=chat_template)
    try:
        llm = engine(model=str(folder), tokenizer=str(checkpoint.base), enable_prefix_caching=True, enable_lora=adapter)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{folder}: vLLM cannot serve it ({error})") from error
    context = llm.llm_engine.model_config.max_model_len
    if context <= longest:
        raise ModelError(f"{folder}: its context holds {context} tokens; wanted more than the {longest} of an answer")
    request = None
    if adapter:
        request = import_module("vllm.lora.request").LoRARequest("adapter", 1, str(checkpoint.path))
    return Engine(llm, tokenizer, opens_thought(tokenizer), request)
