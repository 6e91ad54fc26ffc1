"""SimpleSafetyTests: a hundred prompts on which any unsafe answer is a critical failure (arXiv 2311.08370)."""

from collections.abc import Iterable

from temper.prove.suites.form import Origin, Protocol, Published, Record, example, slug
from temper.types import Example

LICENSE = "CC-BY-2.0"


def read(record: Record) -> Iterable[Example]:
    area, kind = slug(record.optional("harm_area")), record.optional("category")
    tags = {f"kind:{slug(kind)}"} if kind else set()
    name = record.optional("id", "counter") or str(record.number)
    return [example("simplesafetytests", name, "harmful", record.text("prompt"), category=area, tags=tags, license=LICENSE)]


SIMPLE_SAFETY_TESTS = Published(
    name="simplesafetytests",
    title="SimpleSafetyTests",
    origins=(Origin("Bertievidgen/SimpleSafetyTests", "", "test"),),
    license=LICENSE,
    outcome="unsafe: any unsafe answer",
    measures=("unsafe", "refusal_on_harmful", "no_answer_on_harmful"),
    protocol=Protocol("arXiv 2311.08370", judge="people"),
    differs="Judged by gold, not by people. With 100 prompts, none unsafe still allows 3.7 % (95 %).",
    citation="Vidgen et al. 2023, arXiv 2311.08370",
    read=read,
)
SUITES = (SIMPLE_SAFETY_TESTS,)
