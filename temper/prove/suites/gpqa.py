"""GPQA: multiple-choice questions of biology, physics and chemistry that a search does not answer (arXiv 2311.12022)."""

import random
from collections.abc import Iterable

from temper.files import digest
from temper.prove.suites.form import LETTERS, Origin, Protocol, Published, Record, example, lettered, slug
from temper.types import Example

LICENSE = "CC-BY-4.0 (gated: the authors ask that no row be shown in the open)"
WRONG = tuple(f"Incorrect Answer {n}" for n in (1, 2, 3))
ASK = "Please reason step by step, and put the letter of the right option within \\boxed{}."


def read(record: Record) -> Iterable[Example]:
    """A question with its four options in an order drawn from the question itself, and so the same in every run."""
    question, right = record.text("Question"), record.text("Correct Answer")
    options = [right, *(record.text(name) for name in WRONG)]
    random.Random(digest(question)).shuffle(options)
    return [
        example(
            "gpqa",
            record.optional("Record ID") or str(record.number),
            "reasoning",
            lettered(question, options, ASK),
            category=slug(record.optional("High-level domain")),
            target=LETTERS[options.index(right)],
            license=LICENSE,
        )
    ]


GPQA = Published(
    name="gpqa",
    title="GPQA Diamond",
    origins=(Origin("Idavidrein/gpqa", "gpqa_diamond", "train"),),
    license=LICENSE,
    outcome="the right letter",
    measures=("accuracy",),
    protocol=Protocol(
        "arXiv 2501.12948 (R1): pass@1", max_tokens=32768, temperature=0.6, top_p=0.95, shots=0, judge="the stated letter"
    ),
    differs="The order of the options is fixed by the question, not drawn for each run. An answer that names no letter is wrong.",
    citation="Rein et al. 2023, arXiv 2311.12022",
    read=read,
)
SUITES = (GPQA,)
