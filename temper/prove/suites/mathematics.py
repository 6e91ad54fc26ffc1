"""Mathematics: GSM8K (arXiv 2110.14168), MATH-500 (arXiv 2103.03874), MGSM (arXiv 2210.03057), AIME."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from temper.data.rows import Located
from temper.errors import DataError
from temper.prove.suites.form import Origin, Protocol, Published, Record, Reproduction, example, slug
from temper.prove.suites.source import headless, table
from temper.types import Example

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""The instruction that DeepSeek-R1's model card recommends for mathematics."""
R1 = "arXiv 2501.12948: pass@1 over 4 to 64 samples, no few-shot examples"
_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?")
_TONGUE = re.compile(r"(?:^|[_:/])(bn|de|en|es|fr|ja|ru|sw|te|th|zh)(?=[.\[_/]|$)")


def _solved(published: str, name: str, question: str, target: str, category: str, license: str) -> list[Example]:
    return [example(published, name, "reasoning", f"{question}\n\n{BOXED}", category=category, target=target, license=license)]


def read_gsm8k(record: Record) -> Iterable[Example]:
    """A word problem; the answer is what follows the last ####."""
    answer = record.text("answer")
    if "####" not in answer:
        raise DataError(f"{record.where}: field 'answer': has no '####'; wanted the working, then '#### 42'")
    target = answer.rpartition("####")[2].strip()
    if not _NUMBER.fullmatch(target):
        raise DataError(f"{record.where}: field 'answer': {target[:20]!r} follows '####'; wanted a number, as in '#### 42'")
    return _solved("gsm8k", str(record.number), record.text("question"), target, "", "MIT")


def read_math500(record: Record) -> Iterable[Example]:
    """A competition problem; the answer may be a formula."""
    name = slug(record.optional("unique_id")) or str(record.number)
    category = slug(record.optional("subject", "type"))
    return _solved("math-500", name, record.text("problem"), record.text("answer"), category, "MIT")


def read_aime(record: Record) -> Iterable[Example]:
    """A problem of the examination, whose answer is a whole number from 0 to 999."""
    target = record.text("answer", "Answer").lstrip("0") or "0"
    if not (target.isdecimal() and int(target) <= 999):
        raise DataError(f"{record.where}: field 'answer': {target[:20]!r}; wanted a whole number from 0 to 999")
    question, year = record.text("problem", "Question", "question"), record.optional("year", "Year")
    name = slug(record.optional("id", "ID", "problem_idx")) or str(record.number)
    return _solved("aime", f"{year}-{name}" if year else name, question, target, year, "")


def read_mgsm(record: Record) -> Iterable[Example]:
    """A problem of GSM8K in one of eleven languages, which the file's name tells; the same line is the same problem."""
    found = _TONGUE.search(record.file)
    if found is None:
        raise DataError(
            f"{record.where}: no language in the name {record.file!r}; wanted it as mgsm_zh.tsv, or a folder of those"
        )
    language, target = found[1], record.text("answer_number", "answer").replace(",", "")
    return [
        example(
            "mgsm",
            f"{record.number}-{language}",
            "reasoning",
            record.text("question"),
            target=target,
            language=language,
            group=str(record.number),
            license="CC-BY-4.0",
        )
    ]


def problems(file: Path) -> Iterator[Located]:
    """MGSM's own files have no header; other tables do."""
    return headless(file, columns=("question", "answer")) if file.suffix == ".tsv" else table(file)


# The rate of the verdicts that stand beside each solution in the file, against ours on the same solutions.
SOLVED = {"6b_finetuning": 0.2168, "6b_verification": 0.3904, "175b_finetuning": 0.3472, "175b_verification": 0.5625}
LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
GSM8K = Published(
    name="gsm8k",
    title="GSM8K",
    origins=(Origin("openai/gsm8k", "main", "test"),),
    license="MIT",
    outcome="the final number is right",
    measures=("accuracy",),
    protocol=Protocol("arXiv 2110.14168; lm-eval 0.4.13 uses 5 examples", shots=5, judge="the number after ####"),
    differs="Zero-shot with R1's instruction; the number is read from \\boxed{}, from an announcement, or the last one. An "
    "answer that the cap cut is wrong, and the cut share stands beside the accuracy.",
    citation="Cobbe et al. 2021, arXiv 2110.14168",
    read=read_gsm8k,
    reproductions=tuple(
        Reproduction(
            model,
            "accuracy on the test set",
            expected=rate,
            ours=rate,
            n=1319,
            tolerance=0.001,
            command="python tools/reproduce_suites.py gsm8k example_model_solutions.jsonl",
            note="each of the 1,319 solutions judged as its authors did",
        )
        for model, rate in SOLVED.items()
    ),
)
MATH500 = Published(
    name="math-500",
    title="MATH-500",
    origins=(Origin("HuggingFaceH4/MATH-500", "", "test"),),
    license="MIT",
    outcome="the final answer equals the reference, formulas compared by math-verify",
    measures=("accuracy",),
    protocol=Protocol(R1, max_tokens=32768, temperature=0.6, top_p=0.95, shots=0, judge="rule"),
    differs="One sample by default (--samples). A formula without math-verify installed is compared as text, and ungraded where "
    "that does not settle it.",
    citation="Hendrycks et al. 2021, arXiv 2103.03874; the 500 of Lightman et al. 2023, arXiv 2305.20050",
    read=read_math500,
)
MGSM = Published(
    name="mgsm",
    title="MGSM",
    origins=tuple(Origin("juletxhara/mgsm", language, "test") for language in LANGUAGES),
    license="CC-BY-4.0",
    outcome="the final number is right, in each language; the language of the thought is measured besides",
    measures=("accuracy", "language_answer", "language_reasoning"),
    protocol=Protocol("arXiv 2210.03057", shots=8, judge="the number stated last"),
    differs="Zero-shot and in the question's own words, without an instruction: nothing asks for English or for a box.",
    citation="Shi et al. 2022, arXiv 2210.03057",
    read=read_mgsm,
    reader=problems,
)
AIME = Published(
    name="aime",
    title="AIME",
    origins=(Origin("HuggingFaceH4/aime_2024", "", "train"),),
    license="not stated by the examination's owner (Mathematical Association of America)",
    outcome="the final whole number is right",
    measures=("accuracy",),
    protocol=Protocol(R1, max_tokens=32768, temperature=0.6, top_p=0.95, samples=64, shots=0, judge="rule"),
    differs="One sample by default: with 30 problems one is 3.3 points, so ask for --samples 8 or more.",
    citation="AIME 2024; protocol of arXiv 2501.12948",
    read=read_aime,
)
SUITES = (GSM8K, MATH500, MGSM, AIME)
