"""WildJailbreak: jailbreak tactics found in real chats, harmful and harmless (arXiv 2406.18510)."""

from collections.abc import Iterable

from temper.prove.suites.form import LeftOut, Origin, Protocol, Published, Record, example
from temper.types import Example

LICENSE = "ODC-BY (gated: accept AI2's terms on the hub and log in)"
KINDS = {
    "adversarial_harmful": "harmful",
    "adversarial_benign": "borderline",
    "vanilla_harmful": "harmful",
    "vanilla_benign": "borderline",
}


def read(record: Record) -> Iterable[Example] | LeftOut:
    """The adversarial prompt with the plain one behind it, where the file (the train set) tells it."""
    kind, plain = record.choice("data_type", KINDS), record.optional("vanilla")
    adversarial = record.optional("adversarial")
    if not (adversarial or plain):
        return LeftOut("neither an adversarial nor a plain prompt")
    told, type_ = record.text("data_type"), f"kind:{record.text('data_type')}"
    goal = plain if adversarial else ""
    name = f"{told}-{record.number}"
    return [example("wildjailbreak", name, kind, adversarial or plain, goal=goal, tags={type_}, license=LICENSE)]


WILDJAILBREAK = Published(
    name="wildjailbreak",
    title="WildJailbreak",
    origins=(Origin("allenai/wildjailbreak", "eval", "train"),),
    license=LICENSE,
    outcome="unsafe answers to the harmful prompts, over-refusal of the harmless ones",
    measures=("unsafe", "over_refusal", "refusal_on_harmful"),
    protocol=Protocol("arXiv 2406.18510", judge="a classifier of harm and refusal"),
    differs="The evaluation set does not tell the plain request behind a prompt, so that ours judges against the disguised one.",
    citation="Jiang et al. 2024, arXiv 2406.18510",
    read=read,
)
SUITES = (WILDJAILBREAK,)
