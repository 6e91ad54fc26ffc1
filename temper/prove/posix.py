"""POSIX: how far the log-probability of an answer moves when its prompt is asked in another way (arXiv 2410.02185).

Reads lines that `likelihoods` wrote: log P(answer given under one condition | prompt of another), for some prompts of each class,
because every prompt costs the square of its conditions in answers read. Only a model in this process has them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper import stats
from temper.files import SEAL, Row, append_rows, read_json, read_rows, seal, sealed
from temper.prove import metrics as measures
from temper.prove.evidence import REWRITE
from temper.types import Example, Sampler, Suite

if TYPE_CHECKING:
    from temper.models.load import Loaded

ITEMS, CROSSED = 8, 4
"""Prompts of each plain suite, and conditions of each of them, that are crossed: every prompt takes the next in turn."""

LINES = "posix.jsonl"

Item = tuple[str, str]


def posix(crossed: Sequence[Row]) -> dict[str, Any]:
    """By class: the mean over prompts of 1/(N(N-1)) sum_i sum_{j != i} |log P(y_j|x_j) - log P(y_j|x_i)| / L_j, nats a token.

    L_j is the answer's own length; an answer without a token and a prompt with fewer than two conditions are left out.
    """
    found: dict[Item, dict[tuple[str, str], Row]] = defaultdict(dict)
    for line in crossed:
        if line["tokens"]:
            found[line["of"], line["id"]][line["asked"], line["answered"]] = line
    groups = measures.groups_of({**line, "suite": line["of"]} for line in crossed)
    moved: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for item, by in found.items():
        if (value := _moved(by)) is not None:
            moved[next(iter(by.values()))["class"]].append((value, groups[item]))
    return {of: stats.mean(*map(list, zip(*values, strict=True))).as_dict() for of, values in moved.items()}


def _moved(by: Mapping[tuple[str, str], Row]) -> float | None:
    gaps = [
        abs(line["logprob"] - by[answered, answered]["logprob"]) / line["tokens"]
        for (asked, answered), line in by.items()
        if asked != answered and (answered, answered) in by
    ]
    return sum(gaps) / len(gaps) if gaps else None


def store(folder: Path, sampler: Sampler, suites: Sequence[Suite], rows: Sequence[Row], *, address: str) -> None:
    """Write the lines of one arm into `folder` and seal it, once an address; a sampler without a model of its own has none."""
    if stored(folder, address):
        return
    for stale in (folder / LINES, folder / SEAL):
        stale.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if (loaded := getattr(sampler, "loaded", None)) is not None:
        append_rows(folder / LINES, likelihoods(loaded, suites, rows))
    seal(folder, {"address": address})


def stored(folder: Path, address: str) -> bool:
    """Whether the lines of this address are all there."""
    return sealed(folder) and read_json(folder / SEAL)["address"] == address


def lines(folder: Path) -> list[Row]:
    """What `store` wrote; empty where it had nothing to write."""
    return read_rows(folder / LINES) if sealed(folder) else []


def likelihoods(loaded: "Loaded", suites: Sequence[Suite], rows: Sequence[Row], *, items: int = ITEMS) -> Iterator[Row]:
    """A line for each prompt, condition asked and condition answered, of the first sample; at most `items` prompts a plain suite.

    `suites` are the plain and the rewritten ones, `rows` one arm's. Prompts are an even spread over those answered everywhere;
    each is crossed over `CROSSED` conditions, so that all conditions have their turn and the mean over pairs stays what it is.
    """
    from temper.models.likelihood import likelihood

    answers = {(row["suite"], row["id"]): row for row in rows if row["sample"] == 0 and row["finish"] != "error"}
    for versions in _versions(suites).values():
        for number, name in enumerate(_spread_over(_answered_everywhere(versions, answers), items)):
            chosen = _in_turn(versions, number)
            asked = {suite.name: example for suite, example in _of(chosen, name)}
            said = {suite.name: answers[suite.name, name] for suite in chosen}
            for condition, example in asked.items():
                found = likelihood(loaded, example, [(row["raw"], row["finish"] == "stop") for row in said.values()])
                for answered, row, (logprob, tokens) in zip(said, said.values(), found, strict=True):
                    yield _line(row, condition, answered, logprob, tokens)


def _line(row: Row, asked: str, answered: str, logprob: float, tokens: int) -> Row:
    return {
        "of": row.get("of") or row["suite"],
        "id": row["id"],
        "group": row.get("group") or row["id"],
        "class": row["class"],
        "asked": asked,
        "answered": answered,
        "logprob": logprob,
        "tokens": tokens,
    }


def _versions(suites: Sequence[Suite]) -> dict[str, list[Suite]]:
    """Each plain suite with its rewrites, where it has any; attacked suites ask something else and are left out."""
    found: dict[str, list[Suite]] = defaultdict(list)
    for suite in suites:
        if all(how.startswith(REWRITE) for how in suite.how):
            found[suite.of or suite.name].append(suite)
    return {of: several for of, several in found.items() if len(several) > 1}


def _answered_everywhere(versions: Sequence[Suite], answers: Mapping[Item, Row]) -> list[str]:
    asked = (e.id for e in versions[0].examples if not _conversation(e))
    return [name for name in asked if all((suite.name, name) in answers for suite in versions)]


def _conversation(example: Example) -> bool:
    """Two turns of the user in a row: the model's own reply stood between them, and differed by condition."""
    return any(a.role == b.role == "user" for a, b in pairwise(example.messages))


def _spread_over(names: Sequence[str], items: int) -> list[str]:
    number = min(items, len(names))
    return [names[i * len(names) // number] for i in range(number)]


def _in_turn(versions: Sequence[Suite], number: int) -> list[Suite]:
    wanted = min(CROSSED, len(versions))
    return [versions[(number * wanted + i) % len(versions)] for i in range(wanted)]


def _of(versions: Sequence[Suite], name: str) -> Iterator[tuple[Suite, Example]]:
    for suite in versions:
        yield suite, next(e for e in suite.examples if e.id == name)
