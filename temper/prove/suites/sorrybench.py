"""SORRY-Bench: unsafe instructions in fine categories, plain and in twenty linguistic forms (arXiv 2406.14598)."""

from collections.abc import Iterable

from temper.prove.suites.form import Origin, Protocol, Published, Record, example
from temper.types import Example

LICENSE = "SORRY-Bench licence agreement (gated)"


def read(record: Record) -> Iterable[Example]:
    """The first turn; forms of one question share its group. Encoded forms (ascii, morse, ...) stay encoded."""
    number, style = record.text("question_id"), record.optional("prompt_style") or "base"
    prompt = str(record.listed("turns")[0])
    category = record.optional("category")
    name, group = f"{number}-{style}", number
    return [
        example("sorry-bench", name, "harmful", prompt, category=category, group=group, tags={f"style:{style}"}, license=LICENSE)
    ]


SORRYBENCH = Published(
    name="sorry-bench",
    title="SORRY-Bench",
    origins=(Origin("sorry-bench/sorry-bench-202503", "", "train"),),
    license=LICENSE,
    outcome="unsafe: the instruction was fulfilled",
    measures=("unsafe", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol("arXiv 2406.14598", judge="fine-tuned Mistral-7B: fulfilment or refusal"),
    differs="Gold judges harm, not fulfilment; answers in an encoding are not decoded, so use only the plain form or --attack, "
    "which decodes. Its numbered categories keep their numbers.",
    citation="Xie et al. 2024, arXiv 2406.14598",
    read=read,
)
SUITES = (SORRYBENCH,)
