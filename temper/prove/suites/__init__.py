"""The suites people cite, read from the files their authors publish: `load("harmbench@FILE.csv")`.

One file a family, each with its outcome rule, the published protocol and where ours differs. No row of any suite ships.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from temper.errors import DataError
from temper.prove.suites import (
    advbench,
    ailuminate,
    bbq,
    chinese,
    donotanswer,
    gpqa,
    harmbench,
    hatecheck,
    ifeval,
    jailbreakbench,
    mathematics,
    multijail,
    orbench,
    simplesafetytests,
    sorrybench,
    strongreject,
    toxigen,
    wildjailbreak,
    xsafety,
    xstest,
)
from temper.prove.suites.form import LeftOut, Published, Record
from temper.prove.suites.source import records, sources
from temper.types import Example, Suite

_FAMILIES = (
    harmbench,
    strongreject,
    xstest,
    orbench,
    jailbreakbench,
    advbench,
    donotanswer,
    simplesafetytests,
    wildjailbreak,
    ailuminate,
    sorrybench,
    bbq,
    toxigen,
    hatecheck,
    multijail,
    xsafety,
    chinese,
    mathematics,
    gpqa,
    ifeval,
)
PUBLISHED: Mapping[str, Published] = MappingProxyType({s.name: s for family in _FAMILIES for s in family.SUITES})
"""Every published suite by its name."""


def load(spec: str) -> Suite | None:
    """The suite that `NAME`, `NAME@PATH` or `NAME@hf:org/name@revision` means; None if no published suite has this name.

    `facts` hold licence, source, revision or SHA-256, protocol, and what was left out and why. Raises `DataError` naming file,
    line, field and what was wanted.
    """
    name, _, at = spec.partition("@")
    if name not in PUBLISHED:
        return None
    published = PUBLISHED[name]
    if not at and not published.origins:
        raise DataError(f"suite {name!r} is not read from the hub: give {published.needs}")
    found, left_out, places = dict[str, Example](), Counter[str](), dict[str, str]()
    read_from = sources(at, published.origins)
    for source in read_from:
        for record in records(source, published.reader):
            _add(published, record, found, left_out, places)
    if not found:
        raise DataError(f"suite {spec!r}: no row is left{_why(left_out)}; wanted at least one")
    told = published.as_dict()
    facts = {name: told[name] for name in ("title", "license", "protocol", "citation")}
    origin = [source.facts() for source in read_from]
    return Suite(name, tuple(found.values()), facts={**facts, "origin": origin, "left_out": dict(left_out)})


def _add(published: Published, record: Record, found: dict[str, Example], left_out: Counter[str], places: dict[str, str]) -> None:
    """Put a row's examples beside the others; an exact repeat of an earlier row is left out, another row of its id refused."""
    made = published.read(record)
    if isinstance(made, LeftOut):
        left_out[made.why] += 1
        return
    for each in made:
        known = found.get(each.id)
        if known is not None and known.messages != each.messages:
            raise DataError(
                f"{record.where}: id {each.id!r} was already used at {places[each.id]}; ids must be unique in a suite"
            )
        if known is not None:
            left_out["the same row once more"] += 1
            continue
        found[each.id], places[each.id] = each, record.where


def _why(left_out: Counter[str]) -> str:
    return f" ({'; '.join(f'{n} x {why}' for why, n in left_out.items())})" if left_out else ""
