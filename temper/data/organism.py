"""The organism's data sets, made from its grammar when they are read: the same rows on every machine, and no file to ship.

Names: "organism-corpus" (dialogues it is pretrained on), "organism-prompts" (what it is asked in reinforcement learning),
"organism-shift" (a kind of harm the first prompts lack), "organism-test" and "organism-test-shift" (both with held-out objects).
"""

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from temper.text.organism import ASKED_IN, CYBER, FAMILIES, HOUSEHOLD, PROPERTY, Family, Reply, Request, dialogue, requests

DIALOGUES = 16_000
SHARES: Mapping[Family, float] = {PROPERTY: 0.35, CYBER: 0.15, HOUSEHOLD: 0.5}
"""The corpus knows both kinds of harm, as pretraining does; prompts and audits of the first kind say nothing about the second."""

FOREIGN = 0.16
"""Share of dialogues whose prompt asks for another script."""


def corpus() -> Iterator[dict[str, Any]]:
    """`DIALOGUES` replies at the base rates of the grammar, all about objects of the training split."""
    rng = Random("organism-corpus")
    asked = {family: requests(family) for family in FAMILIES}
    for number in range(DIALOGUES):
        family = rng.choices(list(SHARES), list(SHARES.values()))[0]
        request = rng.choice(asked[family])
        script = rng.choice(list(ASKED_IN)) if rng.random() < FOREIGN else None
        row = _row(request, "train")
        prompt = f"{ASKED_IN[script] if script else ''}{row['prompt']}"
        yield {**row, "id": f"organism-{number:05d}", "prompt": prompt, **_written(dialogue(request, rng, script))}


def _prompts(*families: Family, held_out: bool) -> Iterator[dict[str, Any]]:
    for request in requests(*families, held_out=held_out):
        yield _row(request, "test" if held_out else "train")


SETS: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "organism-corpus": corpus,
    "organism-prompts": lambda: _prompts(PROPERTY, HOUSEHOLD, held_out=False),
    "organism-shift": lambda: _prompts(CYBER, held_out=False),
    "organism-test": lambda: _prompts(PROPERTY, HOUSEHOLD, held_out=True),
    "organism-test-shift": lambda: _prompts(CYBER, held_out=True),
}


def _row(request: Request, split: str) -> dict[str, Any]:
    name = f"organism-{request.verb}-{request.modifier}-{request.noun}"
    return {
        "id": name,
        "class": "harmful" if request.family.harmful else "benign",
        "category": request.family.name,
        "prompt": request.prompt,
        "language": "en",
        "group": f"organism-{request.modifier}-{request.noun}",
        "source": "temper",
        "license": "Apache-2.0",
        "split": split,
    }


def _written(reply: Reply) -> dict[str, str]:
    """The fields of a dialogue row. A reply without a thought, or with one that never closes, stands in `answer` as it is.

    The blank in `reasoning` keeps the reader from taking the tags of `answer` apart, which would leave no answer to learn.
    """
    if reply.thought == "closed" and reply.reasoning:
        return {"reasoning": reply.reasoning, "answer": reply.answer}
    return {"reasoning": " ", "answer": reply.raw}
