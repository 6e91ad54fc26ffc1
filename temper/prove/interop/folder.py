"""Replies of other tools -> an evaluation folder as a proof leaves it: rows, run.json, summary.json.

Their scores keep their scorer's name and become metrics of their own; none becomes the gold judge. Our refusal grader reads
every answer, because without it nobody knows what became of a reply; the file's own words on that stay beside it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temper import machine
from temper.data.read import fingerprint
from temper.errors import DataError, UsageError, nearest
from temper.files import Row, append_rows, digest, file_sha256, seal, slug, write_json
from temper.prove.evaluate import Panel, grade_rows, grader_facts
from temper.prove.evidence import Evidence
from temper.prove.interop.reply import Log, Reply, shared
from temper.prove.summary import summarise
from temper.types import CLASSES, Better, Suite

Group = tuple[str, str]  # suite, arm


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the files do not say. `klass` is the class of prompts whose record names none; `low` names scores whose high values
    are the bad ones; `arm` and `suite` replace the names that come from model and task. `graders` and `gold` are the graders of
    the panel as they were named, from which they can be loaded again.
    """

    klass: str = ""
    arm: str = ""
    suite: str = ""
    low: tuple[str, ...] = ()
    graders: tuple[str, ...] = ()
    gold: str = ""


def write(logs: Sequence[tuple[Path, Log]], out: Path, panel: Panel, wanted: Wanted, *, command: str = "") -> Path:
    """Rows, run.json and summary.json in `out`. Raises `DataError`, and `UsageError` if `out` holds an evaluation already."""
    if (out / "run.json").is_file() or (out / "evals").is_dir():
        raise UsageError(f"{out}: holds an evaluation already; give another --out")
    grouped = _grouped(logs, wanted)
    ends = _ends(logs, wanted)
    rows = {group: _rows(replies, group, panel, ends) for group, replies in grouped.items()}
    for (suite, arm), of in rows.items():
        folder = out / "evals" / f"{suite}@{arm}"
        append_rows(folder / "rows.jsonl", of)
        address = digest([r["key"] for r in of])
        write_json(folder / "asked.json", {"address": address})
        seal(folder, {"address": address, "n": len(of)})
    write_json(out / "run.json", _facts(logs, grouped, panel, ends, wanted, out.name, command))
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for (_, arm), of in rows.items():
        by_arm[arm] += of
    evidence = Evidence(by_arm, gold=panel.gold.name if panel.gold else "gold", graders=ends | _own(panel))
    write_json(out / "summary.json", summarise(evidence, command=command, commit=""))
    return out


def _own(panel: Panel) -> dict[str, Better]:
    return {g.name: g.better for g in panel.graders if g is not panel.refusal}


def _grouped(logs: Sequence[tuple[Path, Log]], wanted: Wanted) -> dict[Group, list[Reply]]:
    found: dict[Group, list[Reply]] = defaultdict(list)
    for path, log in logs:
        for reply in log.replies:
            found[slug(wanted.suite or reply.suite), slug(wanted.arm or reply.model)].append(_classed(reply, wanted.klass, path))
    for (suite, arm), replies in found.items():
        twice = Counter((r.completion.example.id, r.sample) for r in replies).most_common(1)[0]
        if twice[1] > 1:
            raise DataError(
                f"suite {suite!r}, arm {arm!r}: prompt {twice[0][0]!r}, sample {twice[0][1]} comes {twice[1]} times; "
                "import the files apart, with --arm or --suite"
            )
    return dict(found)


def _classed(reply: Reply, klass: str, path: Path) -> Reply:
    example = reply.completion.example
    if example.klass:
        return reply
    if not klass:
        raise DataError(
            f"{path}: prompt {example.id!r} of {reply.suite!r} does not say its class; say it for all such prompts with "
            f"--class, one of {', '.join(CLASSES)}"
        )
    tagged = replace(example, tags=frozenset({*(t for t in example.tags if t not in CLASSES), klass}))
    return replace(reply, completion=replace(reply.completion, example=tagged))


def _ends(logs: Sequence[tuple[Path, Log]], wanted: Wanted) -> dict[str, Better]:
    """Every foreign score with its good end. Raises `UsageError` if `low` names one that no file holds."""
    found = {name: end for _, log in logs for reply in log.replies for name, (_, end) in reply.scores.items()}
    for name in wanted.low:
        if name not in found:
            raise UsageError(f"--low {name}: no file holds such a score; {nearest(name, found)}")
    return {name: "low" if name in wanted.low else end for name, end in found.items()}


def _rows(replies: Sequence[Reply], group: Group, panel: Panel, ends: Mapping[str, Better]) -> list[Row]:
    suite = Suite(group[0], tuple(r.completion.example for r in replies), replies[0].of, replies[0].how)
    made = grade_rows([(r.sample, r.completion) for r in replies], panel, suite=suite, arm=group[1])
    return [_with_theirs(row, reply, ends) for row, reply in zip(made, replies, strict=True)]


def _with_theirs(row: Row, reply: Reply, ends: Mapping[str, Better]) -> Row:
    theirs = {
        name: {"value": s.value, "why": s.why, "parts": dict(s.parts), "better": ends[name]}
        for name, (s, _) in reply.scores.items()
    }
    row["scores"] |= theirs
    return row


def _facts(
    logs: Sequence[tuple[Path, Log]],
    grouped: Mapping[Group, Sequence[Reply]],
    panel: Panel,
    ends: Mapping[str, Better],
    wanted: Wanted,
    name: str,
    command: str,
) -> dict[str, Any]:
    models = list(dict.fromkeys(r.model for replies in grouped.values() for r in replies))
    decoding = shared(log.facts.get("decoding") for _, log in logs) or {}
    asked = {
        "max_new_tokens": decoding.get("max_tokens"),
        "temperature": decoding.get("temperature"),
        "top_p": decoding.get("top_p"),
    }
    theirs = {name: _theirs(name, end) for name, end in ends.items()}
    judge = wanted.gold or (panel.gold.name if panel.gold else "gold")
    settings = {"gold": judge, "graders": list(wanted.graders or _own(panel)), "standard": False}
    return {
        "name": name,
        "command": command,
        "commit": "",
        "seed": 0,
        "versions": machine.versions(),
        "model": {"name": ", ".join(models), "sha256": "", "parameters": 0},
        "finished": time.time(),
        "arms": {arm: [] for arm in dict.fromkeys(arm for _, arm in grouped)},
        "graders": theirs | {g.name: grader_facts(g, "gold" if g is panel.gold else "monitor") for g in panel.all()},
        "recipe": {"seed": 0, "prove": {"suites": list(dict.fromkeys(s for s, _ in grouped)), **settings, **_known(asked)}},
        "data": {suite: _data(replies) for (suite, _), replies in grouped.items()},
        "evals": {},
        "imported": [_source(path, log) for path, log in logs],
    }


def _known(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}


def _theirs(name: str, better: Better) -> dict[str, Any]:
    card = f"as the file has it: {name.partition(':')[0]}'s own scorer"
    return {"identity": "", "weights": "", "inside": [], "better": better, "role": "imported", "card": card}


def _data(replies: Sequence[Reply]) -> dict[str, Any]:
    examples = tuple({r.completion.example.id: r.completion.example for r in replies}.values())
    return {"n": len(examples), "fingerprint": fingerprint(examples), "how": list(replies[0].how), "source": examples[0].source}


def _source(path: Path, log: Log) -> dict[str, Any]:
    told = {"file": path.name, "sha256": file_sha256(path), "tool": log.tool, "replies": len(log.replies)}
    return {**told, **log.facts, "unknown": list(log.unknown)}
