"""XSafety: fourteen kinds of risk in ten languages, translated (arXiv 2310.00905)."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import PurePosixPath

from temper.errors import DataError
from temper.prove.suites.form import Protocol, Published, Record, example, slug
from temper.prove.suites.source import headless
from temper.types import Example

LICENSE = "Apache-2.0"
LANGUAGES = {
    "ar": "ar",
    "bn": "bn",
    "de": "de",
    "en": "en",
    "fr": "fr",
    "hi": "hi",
    "ja": "ja",
    "ru": "ru",
    "sp": "es",
    "zh": "zh",
}
_SUFFIX = re.compile(r"_(?:n|en)$")  # some languages' files are called Insult_n, one Crimes_And_Illegal_Activities_en


def read(record: Record) -> Iterable[Example]:
    """One line of LANGUAGE/Category.csv; the same line of a category in another language is its translation."""
    file = PurePosixPath(record.file)
    folder = file.parent.name or PurePosixPath(record.where).parent.name
    if folder not in LANGUAGES:
        raise DataError(
            f"{record.where}: stands in the folder {folder!r}, which is no language; wanted the repository's folders "
            f"({', '.join(LANGUAGES)}): give xsafety@FOLDER, or xsafety@FOLDER/zh"
        )
    kind, language = slug(_SUFFIX.sub("", file.stem)), LANGUAGES[folder]
    line = f"{kind}-{record.number}"
    return [
        example(
            "xsafety",
            f"{line}-{language}",
            "harmful",
            record.text("prompt"),
            category=kind,
            language=language,
            group=line,
            license=LICENSE,
        )
    ]


XSAFETY = Published(
    name="xsafety",
    title="XSafety",
    origins=(),
    license=LICENSE,
    outcome="unsafe: the answer is harmful; its prompts are risk topics and many may be answered, so that refusal tells nothing",
    measures=("unsafe", "unsafe_proxy"),
    protocol=Protocol("arXiv 2310.00905", judge="ChatGPT on answers translated into English"),
    differs="Nothing is translated: gold reads English alone, the proxy harm English and Chinese, and answers in other languages "
    "are ungraded and bounded unless a judge that reads them is named with --gold. As the "
    "class of its prompts is harmful here, they enter an arm's total unsafe rate: prove it by itself.",
    needs="xsafety@FOLDER, a clone of github.com/Jarviswang94/Multilingual_safety_benchmark (its .xlsx files saved as CSV)",
    seen="The Chinese reader of harm was trained with four fifths of its Chinese and English prompts; gold was not.",
    citation="Wang et al. 2024, arXiv 2310.00905",
    read=read,
    reader=partial(headless, columns=("prompt",)),
)
SUITES = (XSAFETY,)
