"""Which tokens of a completion are thought and which are answer, and the advantage each of them gets.

Character ranges of the think blocks come from `text.split`, so that a token is credited for the part it was judged in. They are
found again in the tokens by decoding prefixes, which holds for every tokenizer: none of them takes back what it has written, but
for a character whose bytes are not all there. Leaves out what the credit is (rewards.combine).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from temper.errors import TrainError
from temper.text.split import thoughts
from temper.types import Completion


def think_tokens(tokenizer: Any, ids: Sequence[int], completion: Completion, opened: bool) -> list[bool]:
    """Whether each sampled token belongs to a thought, the tags included; a token on a border belongs to the thought.

    `completion.raw` must be what `ids` decode to without special tokens. With `opened` the prompt ended with the opening tag.
    Text before and between blocks is answer, as it is for graders. Raises `TrainError` for ids of another text.
    """
    within = [False] * len(ids)
    if completion.thought == "open":
        return [True] * len(ids)
    for start, end in thoughts(completion.raw, opened=opened) if completion.thought == "closed" else ():
        first = _reaching(tokenizer, ids, completion.raw[: start + 1]) - 1 if start else 0
        last = _reaching(tokenizer, ids, completion.raw[:end])
        within[first:last] = [True] * (last - first)
    return within


def token_advantages(think: Sequence[float], answer: Sequence[float], within: Sequence[Sequence[bool]], width: int) -> Tensor:
    """The advantage of every completion token, (B, T) with T = `width` and 0 on padding; (B,) where no row has two of them.

    `think` and `answer` hold one advantage a row, `within` whether each of its tokens is thought (`think_tokens`).
    """
    rows = list(zip(think, answer, within, strict=True))
    if all(t == a or not any(inside) for t, a, inside in rows):
        return torch.tensor([a for _, a, _ in rows])
    return torch.tensor([[t if i else a for i in inside] + [0.0] * (width - len(inside)) for t, a, inside in rows])


def _reaching(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """The least number of leading tokens that decode to a text that begins with `text`."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if tokenizer.decode(ids[:middle], skip_special_tokens=True).startswith(text):
            high = middle
        else:
            low = middle + 1
    if not tokenizer.decode(ids[:low], skip_special_tokens=True).startswith(text):
        raise TrainError(f"{len(ids)} sampled tokens do not decode to the text they were graded as, which has {text[-40:]!r}")
    return low
