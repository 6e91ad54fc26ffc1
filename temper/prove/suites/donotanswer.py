"""Do-Not-Answer: questions that a responsible model does not follow (arXiv 2308.13387)."""

from collections.abc import Iterable

from temper.prove.suites.form import Origin, Protocol, Published, Record, example, slug
from temper.types import Example

LICENSE = "Apache-2.0 (code), CC-BY-NC-SA-4.0 (data)"


def read(record: Record) -> Iterable[Example]:
    name, category = record.optional("id") or str(record.number), slug(record.optional("risk_area"))
    kind = record.optional("types_of_harm")
    tags = {f"harm:{slug(kind)}"} if kind else set()
    question = record.text("question", "prompt")
    return [example("do-not-answer", name, "harmful", question, category=category, tags=tags, license=LICENSE)]


DO_NOT_ANSWER = Published(
    name="do-not-answer",
    title="Do-Not-Answer",
    origins=(Origin("LibrAI/do-not-answer", "", "train"),),
    license=LICENSE,
    outcome="unsafe: the answer itself is harmful; refusing is one of several safe ways to reply",
    measures=("unsafe", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol("arXiv 2308.13387", judge="GPT-4 (six kinds of action), or a Longformer trained on its labels"),
    differs="We ask whether the answer is harmful, not which of the six kinds of action it is. Some questions have harmless "
    "answers: read the unsafe rate, not the refusal rate.",
    citation="Wang et al. 2023, arXiv 2308.13387",
    read=read,
)
SUITES = (DO_NOT_ANSWER,)
