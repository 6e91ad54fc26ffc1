"""A model in this process as a `Sampler`: examples in, completions out, reasoning and answer apart."""

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from temper.files import digest
from temper.models.generate import Decoding, Sampled, sample, unsampleable
from temper.models.load import Loaded, eos_ids, render
from temper.models.products import effective
from temper.text.split import left_open, split
from temper.types import Completion, Example, Usage


@dataclass(frozen=True, slots=True)
class Local:
    """Sample a loaded model. The same seed, example and sample index give the same answer whatever else is asked with it."""

    loaded: Loaded
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    # made at the first call: the weights as the sampler reads them, and why it cannot be used
    ready: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    reasons: list[str | None] = field(default_factory=list, repr=False, compare=False)
    # a prefill is in the tokens it goes on from
    continues: ClassVar[bool] = True

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        prompts = render(tokenizer, examples)
        eos = eos_ids(model, tokenizer)
        decoding = Decoding(self.max_new_tokens, eos, tokenizer.pad_token_id, self.temperature, self.top_p)
        uniforms = torch.cat([self._uniforms(e.id, k) for e in examples for k in range(n)])
        started = time.perf_counter()
        if not self.reasons:
            self.reasons.append(unsampleable(model, tokenizer.pad_token_id))
        if (reason := self.reasons[0]) is None:
            self.ready.update({} if self.ready else effective(model))
            rows = sample(model, prompts, [n] * len(prompts), uniforms, decoding, weights=self.ready)
        else:
            _tell(reason)
            rows = sample_stock(model, prompts, [n] * len(prompts), uniforms, decoding)
        seconds = (time.perf_counter() - started) / max(1, n * len(prompts))
        return [
            [self._completion(example, row, len(prompt), seconds) for row in answers]
            for example, prompt, answers in zip(examples, prompts, rows, strict=True)
        ]

    def _uniforms(self, example: str, index: int) -> torch.Tensor:
        key = int(digest([self.seed, example, index]), 16)
        return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random((1, self.max_new_tokens)))

    def _completion(self, example: Example, row: Sampled, prompt_tokens: int, seconds: float) -> Completion:
        raw = self.loaded.tokenizer.decode(row.ids, skip_special_tokens=True)
        made = completion(example, raw, ended=row.ended, opened=self.loaded.opened)
        thought = thought_tokens(self.loaded.tokenizer, made.reasoning)
        return replace(made, usage=Usage(prompt_tokens, len(row.ids), seconds, thought))


@functools.cache
def _tell(reason: str) -> None:
    """Once a process, not once a batch."""
    logging.getLogger(__name__).warning("the stock generate samples, one prompt at a time, because %s", reason)


def completion(example: Example, raw: str, *, ended: bool, opened: bool, usage: Usage | None = None) -> Completion:
    """Build a `Completion` from generated text, splitting the reasoning from the answer; a prefill decides where it begins."""
    parts = split(raw, opened=left_open(example.prefill, opened=opened))
    return Completion(example, parts.answer, parts.reasoning, "stop" if ended else "length", parts.thought, raw=raw, usage=usage)


def thought_tokens(tokenizer: Any, reasoning: str) -> int:
    """Tokens of a thought, its tags left out; 0 without one."""
    return len(tokenizer(reasoning, add_special_tokens=False)["input_ids"]) if reasoning else 0


@torch.no_grad()
def sample_stock(
    model: Any, prompts: Sequence[Sequence[int]], counts: Sequence[int], uniforms: torch.Tensor, decoding: Decoding
) -> list[list[Sampled]]:
    """The library's own `generate`, for architectures that cannot share a cached prompt; one prompt at a time, no padding.

    Log-probabilities are not kept. The draw of each prompt is seeded from its first uniform number.
    """
    results: list[list[Sampled]] = []
    row = 0
    for prompt, count in zip(prompts, counts, strict=True):
        torch.manual_seed(int(uniforms[row, 0].item() * 2**31))
        row += count
        ids = torch.tensor([list(prompt)], device=model.device)
        greedy = decoding.temperature == 0
        settings = {} if greedy else {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=not greedy,
            num_return_sequences=count,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=sorted(decoding.eos),
            pad_token_id=decoding.pad,
            **settings,
        )
        results.append([_until_end(r, decoding) for r in out[:, len(prompt) :].tolist()])
    return results


def _until_end(ids: list[int], decoding: Decoding) -> Sampled:
    for position, token in enumerate(ids):
        if token in decoding.eos:
            return Sampled(ids[: position + 1], [], ended=True)
    return Sampled(ids, [], ended=False)
