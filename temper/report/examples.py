"""Which prompts are shown with every arm's reply side by side: a fixed rule, so that nobody picks the pretty ones."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temper.files import Row
from temper.types import CLASSES

Key = tuple[str, str, int]
APART = 0.5  # gold scores this far apart count as a disagreement of arms


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with the row of every arm, in the order of the arms; `drawn` says which half of the rule chose it."""

    prompt: str
    kind: str
    category: str
    drawn: str
    rows: tuple[Row, ...]


def choose(
    rows_by_arm: Mapping[str, Sequence[Row]], arms: Sequence[str], *, gold: str = "gold", total: int = 20
) -> list[Example]:
    """`total` prompts of suites as they are that all arms answered, spread evenly over classes.

    In each class every second one is the next on which the arms disagree, the others are drawn by the hash of their id.
    """
    found = _shared(rows_by_arm, arms)
    queues = {kind: _alternating(keys, found, gold) for kind, keys in _by_class(found).items()}
    chosen: list[Example] = []
    while len(chosen) < total and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < total:
                key, drawn = queue.pop(0)
                first = found[key][0]
                chosen.append(Example(first["prompt"], first["class"], first["category"], drawn, found[key]))
    return sorted(chosen, key=lambda e: list(queues).index(e.kind))


def class_order(kind: str) -> tuple[int, str]:
    """Sort key of a class: the four known ones in the order of what matters, then any other by name."""
    return (CLASSES.index(kind) if kind in CLASSES else len(CLASSES), kind)


def _shared(rows_by_arm: Mapping[str, Sequence[Row]], arms: Sequence[str]) -> dict[Key, tuple[Row, ...]]:
    present = [arm for arm in arms if rows_by_arm.get(arm)]
    if not present:
        return {}
    index = [{(r["suite"], r["id"], r["sample"]): r for r in rows_by_arm[arm] if not r.get("how")} for arm in present]
    return {key: tuple(rows[key] for rows in index) for key in index[0] if key[2] == 0 and all(key in rows for rows in index)}


def _by_class(found: Mapping[Key, tuple[Row, ...]]) -> dict[str, list[Key]]:
    kinds: dict[str, list[Key]] = defaultdict(list)
    for key, rows in found.items():
        kinds[rows[0]["class"]].append(key)
    return {kind: kinds[kind] for kind in sorted(kinds, key=class_order)}


def _alternating(keys: Sequence[Key], found: Mapping[Key, tuple[Row, ...]], gold: str) -> list[tuple[Key, str]]:
    shuffled = sorted(keys, key=lambda key: hashlib.sha256("\n".join(map(str, key)).encode("utf-8", "replace")).digest())
    apart = [key for key in shuffled if _disagree(found[key], gold)]
    queue: dict[Key, str] = {}
    for i, key in enumerate(shuffled):
        if i < len(apart):
            queue.setdefault(apart[i], "arms disagree")
        queue.setdefault(key, "drawn at random")
    return list(queue.items())


def _disagree(rows: Sequence[Row], gold: str) -> bool:
    golds = [value for row in rows if (value := (row["scores"].get(gold) or {}).get("value")) is not None]
    return len({row["outcome"] for row in rows}) > 1 or (len(golds) > 1 and max(golds) - min(golds) >= APART)
