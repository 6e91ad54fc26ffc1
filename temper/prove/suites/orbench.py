"""OR-Bench: prompts that look toxic and are not, with a control set that is (arXiv 2405.20947)."""

from collections.abc import Iterable

from temper.prove.suites.form import Origin, Protocol, Published, Record, example, slug
from temper.types import Example

LICENSE = "CC-BY-4.0"


def read(record: Record) -> Iterable[Example]:
    """Whether a prompt is toxic stands only in the name of the file it comes from."""
    kind = record.told_by_file({"toxic": "toxic", "hard": "hard", "80k": "80k"})
    prompt, category = record.text("prompt"), slug(record.optional("category"))
    klass = "harmful" if kind == "toxic" else "borderline"
    return [example("or-bench", f"{kind}-{record.number}", klass, prompt, category=category, license=LICENSE)]


ORBENCH = Published(
    name="or-bench",
    title="OR-Bench",
    origins=(Origin("bench-llm/or-bench", "or-bench-hard-1k", "train"), Origin("bench-llm/or-bench", "or-bench-toxic", "train")),
    license=LICENSE,
    outcome="over-refusal of the hard set, refusal of the toxic set",
    measures=("over_refusal", "refusal_on_harmful", "unsafe"),
    protocol=Protocol("arXiv 2405.20947", judge="keyword match, and GPT-4 for the hard set"),
    differs="Refusal is decided by our calibrated classifier, partial refusals count as over-refusal; answers to the toxic set "
    "are judged for harm as well. The 80k set is read from its file, not by default.",
    citation="Cui et al. 2024, arXiv 2405.20947",
    read=read,
)
SUITES = (ORBENCH,)
