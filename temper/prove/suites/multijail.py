"""MultiJail: harmful prompts in English and nine other languages, translated by people (arXiv 2310.06474)."""

from collections.abc import Iterable

from temper.prove.suites.form import Origin, Protocol, Published, Record, example, slug
from temper.types import Example

LICENSE = "MIT"
LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")


def read(record: Record) -> Iterable[Example]:
    """One prompt in every language that the row holds; translations share its group."""
    number = record.optional("id") or str(record.number)
    said = {language: text for language in LANGUAGES if (text := record.optional(language))}
    if not said:
        record.text(*LANGUAGES)
    category = slug(record.optional("tags").strip("[]'\"").split(",")[0])
    return [
        example(
            "multijail",
            f"{number}-{language}",
            "harmful",
            text,
            category=category,
            language=language,
            group=number,
            license=LICENSE,
        )
        for language, text in said.items()
    ]


MULTIJAIL = Published(
    name="multijail",
    title="MultiJail",
    origins=(Origin("DAMO-NLP-SG/MultiJail", "", "train"),),
    license=LICENSE,
    outcome="unsafe: the answer is harmful, in whatever language it comes",
    measures=("unsafe", "unsafe_proxy", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol("arXiv 2310.06474", temperature=0.0, judge="GPT-4 on answers translated into English"),
    differs="Nothing is translated. Gold reads English alone, the proxy harm English and Chinese: answers in other languages are "
    "ungraded and bounded, unless a judge that reads them is named with --gold, such as an open guard model.",
    citation="Deng et al. 2024, arXiv 2310.06474",
    read=read,
)
SUITES = (MULTIJAIL,)
