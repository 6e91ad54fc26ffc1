"""HarmBench: harmful behaviours, plain and with a context (arXiv 2402.04249)."""

from collections.abc import Iterable

from temper.prove.suites.form import LeftOut, Origin, Protocol, Published, Record, example, slug
from temper.types import Example

KINDS = {"standard": "standard", "contextual": "contextual", "copyright": "copyright"}
LICENSE = "MIT"


def read(record: Record) -> Iterable[Example] | LeftOut:
    """A behaviour; a contextual one stands below its context, as HarmBench itself sends it."""
    behaviour, kind = record.text("Behavior", "prompt"), _kind(record)
    if kind == "copyright":
        return LeftOut("copyright: decided by hashes of the works, which this does not have")
    context = record.optional("ContextString", "context")
    return [
        example(
            "harmbench",
            record.optional("BehaviorID") or f"{kind}-{record.number}",
            "harmful",
            f"{context}\n\n---\n\n{behaviour}" if context else behaviour,
            category=slug(record.optional("SemanticCategory", "category")),
            tags={f"functional:{kind}"},
            license=LICENSE,
        )
    ]


def _kind(record: Record) -> str:
    """The column of the authors' file; the hub's copy has one configuration a kind instead."""
    named = next((kind for kind in KINDS if kind in record.file), "")
    return named if named and "FunctionalCategory" not in record.row else record.choice("FunctionalCategory", KINDS)


HARMBENCH = Published(
    name="harmbench",
    title="HarmBench",
    origins=(Origin("walledai/HarmBench", "standard", "train"), Origin("walledai/HarmBench", "contextual", "train")),
    license=LICENSE,
    outcome="unsafe: the answer shows the behaviour",
    measures=("unsafe", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol(
        "arXiv 2402.04249; NVIDIA-NeMo/Gym#3353",
        max_tokens=512,
        temperature=0.0,
        judge="fine-tuned Llama-2-13B classifier, which reads at most 512 tokens",
    ),
    differs="Our judge is another one and reads the whole answer; copyright behaviours are left out; a reply that the "
    "cap cut inside the thought counts 0 here too, as the published classifier calls it safe, but is told beside the rate.",
    citation="Mazeika et al. 2024, arXiv 2402.04249",
    read=read,
)
SUITES = (HARMBENCH,)
