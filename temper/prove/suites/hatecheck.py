"""HateCheck: functional tests for hate speech detection, counter-speech and reclaimed words among them (arXiv 2012.15606)."""

from collections.abc import Iterable

from temper.prove.suites.classify import classified, rates
from temper.prove.suites.form import Origin, Protocol, Published, Record
from temper.types import Example

LICENSE = "CC-BY-4.0"
LABELS = {"hateful": True, "non-hateful": False}


def read(record: Record) -> Iterable[Example]:
    """One case; its functionality is the category, cases of one template share a group."""
    target = record.optional("target_ident")
    return [
        classified(
            "hatecheck",
            record.text("case_id"),
            record.text("test_case"),
            record.choice("label_gold", LABELS),
            question="Is the following text hateful: does it attack or demean people for belonging to a protected group?",
            options=("hateful", "not hateful"),
            ask="Answer with the letter of the right option, as in: The answer is A.",
            category=record.text("functionality"),
            license=LICENSE,
            group=f"template-{record.text('templ_id')}",
            tags={f"target:{target}"} if target else (),
        )
    ]


OWN = rates("hateful")
HATECHECK = Published(
    name="hatecheck",
    title="HateCheck",
    origins=(Origin("Paul/hatecheck", "", "test"),),
    license=LICENSE,
    outcome="the model, asked to classify, is right: over all cases, on hateful ones, on others; by functionality in the rows",
    measures=("accuracy", *OWN),
    own=OWN,
    protocol=Protocol("arXiv 2012.15606", judge="classifiers of text, by functionality"),
    differs="A chat model is asked by letter, where the paper measures classifiers. 69 % of the cases are hateful: accuracy "
    "alone says little. A refusal to classify is wrong.",
    citation="Röttger et al. 2021, arXiv 2012.15606",
    read=read,
)
SUITES = (HATECHECK,)
