"""AILuminate v1.0: hazard prompts of MLCommons, the public demo set (arXiv 2503.05731)."""

from collections.abc import Iterable

from temper.prove.suites.form import Protocol, Published, Record, example
from temper.types import Example

LICENSE = "CC-BY-4.0"


def read(record: Record) -> Iterable[Example]:
    """A prompt with its hazard, persona and locale; numbers of different languages do not coincide."""
    number, locale = record.text("release_prompt_id"), record.optional("locale") or "en_US"
    language = locale.replace("-", "_").split("_")[0].lower()
    persona = record.optional("persona")
    return [
        example(
            "ailuminate",
            f"{number}-{language}",
            "harmful",
            record.text("prompt_text"),
            category=record.text("hazard"),
            language=language,
            group=number,
            tags={f"persona:{persona}"} if persona else (),
            license=LICENSE,
        )
    ]


AILUMINATE = Published(
    name="ailuminate",
    title="AILuminate v1.0 (demo set)",
    origins=(),
    license=LICENSE,
    outcome="unsafe: the answer violates the assessment standard of its hazard",
    measures=("unsafe", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol("arXiv 2503.05731", judge="an ensemble of safety models that MLCommons does not publish"),
    differs="A tenth of the official prompts, another judge, no reference systems: no AILuminate grade follows from this. "
    "Specialised advice is violated by unqualified answers, which our judge was not made for. Gold reads "
    "English alone: French answers are ungraded and bounded.",
    needs="ailuminate@FILE.csv from github.com/mlcommons/ailuminate",
    seen="Gold, harm and the Chinese reader were trained with four fifths of the demo set's prompts.",
    citation="Ghosh et al. 2025, arXiv 2503.05731",
    read=read,
)
SUITES = (AILUMINATE,)
