"""log P(answer | prompt) under a loaded model: all answers in one pass, and the prompt read once where the model allows it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from temper.models.load import Loaded, render
from temper.models.packed import Tree, hidden_states, unshareable
from temper.models.score import token_logprobs
from temper.types import Example


class Likelihood(NamedTuple):
    """The log-probability of all tokens of an answer, in nats at temperature 1, and their number: their quotient is by length."""

    logprob: float
    tokens: int


@torch.no_grad()
def likelihood(loaded: Loaded, example: Example, answers: Sequence[tuple[str, bool]]) -> list[Likelihood]:
    """Of each answer (raw text, whether it came to its end) after the example's prompt; an end counts as a token.

    The text is tokenized anew, which is not always how it was sampled. An answer without a token has log-probability 0.
    """
    prompt = render(loaded.tokenizer, [example])[0]
    ids = [_ids(loaded.tokenizer, text, ended) for text, ended in answers]
    wanted = [i for i, answer in enumerate(ids) if answer]
    scored = _packed if unshareable(loaded.model) is None else _stock
    sums = scored(loaded.model, prompt, [ids[i] for i in wanted]) if wanted else []
    found = dict(zip(wanted, sums, strict=True))
    return [Likelihood(found.get(i, 0.0), len(answer)) for i, answer in enumerate(ids)]


def _ids(tokenizer: Any, text: str, ended: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return [*ids, tokenizer.eos_token_id] if ended else ids


def _packed(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
    # an answer's last token is predicted but predicts nothing, so it does not pass through the body
    tree = Tree([prompt], [[answer[:-1] for answer in answers]], model.device)
    hidden = hidden_states(model.base_model, tree.tokens, tree.positions, tree)
    sources = [s for place in tree.places[0] for s in (tree.ends[0], *range(place.start, place.stop))]
    targets = torch.tensor([token for answer in answers for token in answer], device=hidden.device)
    logprobs, _ = token_logprobs(hidden[torch.tensor(sources, device=hidden.device)], _head(model), targets, 1.0)
    return [float(part.double().sum()) for part in torch.split(logprobs, [len(answer) for answer in answers])]


def _stock(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
    """The library's forward pass, for architectures that cannot share a prompt: one answer at a time."""
    sums = []
    for answer in answers:
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        chosen = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])
        sums.append(float(chosen.double().sum()))
    return sums


def _head(model: Any) -> torch.Tensor:
    return model.get_output_embeddings().weight  # type: ignore[no-any-return]
