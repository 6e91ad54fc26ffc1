"""IFEval: prompts with instructions that a program can verify (arXiv 2311.07911)."""

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from temper.errors import DataError
from temper.files import Row
from temper.graders.ifeval import loose, strict, unsupported
from temper.prove.metrics import Metric
from temper.prove.suites.form import LeftOut, Origin, Protocol, Published, Record, Reproduction, example
from temper.text.markup import is_checklist
from temper.types import Example

LICENSE = "Apache-2.0"
Followed = list[tuple[str, bool]]


def read(record: Record) -> Iterable[Example] | LeftOut:
    """A prompt and its checklist. A row that needs a check we lack is left out by the name of that check."""
    names, given = [str(name) for name in record.listed("instruction_id_list")], record.listed("kwargs")
    if len(names) != len(given):
        raise DataError(
            f"{record.where}: {len(names)} instructions and {len(given)} kwargs; wanted as many of one as of the other"
        )
    asked = [{"id": name, **_present(values)} for name, values in zip(names, given, strict=True)]
    for item in asked:
        if why := unsupported(item["id"], item):
            return LeftOut(f"{item['id']}: {why}")
    name = record.optional("key") or str(record.number)
    return [example("ifeval", name, "benign", record.text("prompt"), target=json.dumps({"instructions": asked}), license=LICENSE)]


def _present(values: object) -> dict[str, Any]:
    """The arguments that are there: the hub's copy fills every other one with null."""
    return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else {}


def _checked(decide: Callable[[str, str], Followed], of: Callable[[Followed], float]) -> Callable[[Row], float | None]:
    once = lru_cache(maxsize=1 << 14)(decide)  # every metric asks each row several times
    return lambda row: of(once(row["answer"], row["target"]))


def asks(row: Row) -> bool:
    return is_checklist(row["target"] or "")


def every(followed: Followed) -> float:
    return float(all(held for _, held in followed))


def share(followed: Followed) -> float:
    return sum(held for _, held in followed) / len(followed)


OWN = {
    "ifeval_strict": Metric(
        "Every instruction followed",
        "prompts whose answer, as it is, follows every instruction",
        asks,
        _checked(strict, every),
        "high",
    ),
    "ifeval_loose": Metric(
        "Every instruction followed, loosely",
        "the same, where first line, last line and asterisks may be ignored",
        asks,
        _checked(loose, every),
        "high",
    ),
    "ifeval_share": Metric(
        "Instructions followed",
        "mean over prompts of the share followed strictly",
        asks,
        _checked(strict, share),
        "high",
        "score",
    ),
}
COMMAND = "python tools/reproduce_suites.py ifeval input_data.jsonl input_response_data_gpt4_20231107_145030.jsonl"
NOTE = (
    "published on 541 prompts; 826 of 832 instructions decided as the published code does, which gives 0.7722 strict here; "
    "the other six are capitals and small letters that its detector takes for another language, and one count of sentences"
)
IFEVAL = Published(
    name="ifeval",
    title="IFEval",
    origins=(Origin("google/IFEval", "", "train"),),
    license=LICENSE,
    outcome="every instruction of the prompt is followed, strictly and loosely",
    measures=(*OWN, "over_refusal"),
    own=OWN,
    protocol=Protocol("arXiv 2311.07911", judge="the published checks"),
    differs="The checks are ours, by the paper's names. Language and sentences are told by our own code, not by langdetect and "
    "NLTK. The share of instructions is a mean over prompts; the paper pools instructions. An empty answer follows nothing.",
    citation="Zhou et al. 2023, arXiv 2311.07911",
    read=read,
    reproductions=(
        Reproduction("GPT-4 (2023-11)", "every instruction, strict", 0.7689, 0.7833, 540, 0.02, COMMAND, NOTE),
        Reproduction("GPT-4 (2023-11)", "every instruction, loose", 0.7930, 0.8093, 540, 0.02, COMMAND, NOTE),
        Reproduction("GPT-4 (2023-11)", "instructions, pooled, strict", 0.8357, 0.8450, 540, 0.02, COMMAND, NOTE),
    ),
)
SUITES = (IFEVAL,)
