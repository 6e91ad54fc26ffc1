"""Every prompt with every arm's reply, packed for the page's script: JSON in gzip in base64, a chunk of prompts at a time.

Model output goes in as data and is shown as text nodes alone (page.js); hidden characters are spelled out before it is packed.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.files import Row, dumps
from temper.report.read import Run
from temper.text.invisible import spelled_out

CHUNK = 1_000  # prompts of one chunk: some megabytes of text, so that a page shows the first while it unpacks the others
LEVEL = 5  # of gzip: a quarter of the time of 9 for a twentieth more bytes
Key = tuple[str, str, int]


def packed(run: Run) -> list[str]:
    """The chunks, as base64; none for a run without rows. Prompts stand in the order of the rows, arms in that of the run."""
    prompts = list(_prompts(run))
    told = {"arms": [spelled_out(arm) for arm in run.arms], "gold": spelled_out(run.gold)}
    return [_packed({**told, "prompts": prompts[i : i + CHUNK]}) for i in range(0, len(prompts), CHUNK)]


def unpacked(chunk: str) -> Any:
    """What a chunk holds, as the page's script reads it."""
    return json.loads(gzip.decompress(base64.b64decode(chunk)))


def _packed(value: object) -> str:
    return base64.b64encode(gzip.compress(dumps(value).encode(), LEVEL, mtime=0)).decode()


def _prompts(run: Run) -> Iterator[dict[str, Any]]:
    index = {arm: {(row["suite"], row["id"], row["sample"]): row for row in run.rows.get(arm, ())} for arm in run.arms}
    keys: dict[Key, Row] = {}
    for rows in index.values():
        for key, row in rows.items():
            keys.setdefault(key, row)
    for key, row in keys.items():
        replies = [_reply(given, run.gold) if (given := index[arm].get(key)) else None for arm in run.arms]
        yield {**_asked(row), "replies": replies}


def _asked(row: Row) -> dict[str, Any]:
    """What all arms were asked; what a row has only now and then is left out where it has none."""
    told = {name: _shown(row[name]) for name in ("suite", "id", "sample", "class", "category", "language", "prompt")}
    rare = {name: _shown(row[name]) for name in ("target", "of", "how", "asked") if row.get(name)}
    return told | rare


def _reply(row: Row, gold: str) -> dict[str, Any]:
    scores = {name: round(given["value"], 3) for name, given in row["scores"].items() if (given or {}).get("value") is not None}
    told = {
        "outcome": row["outcome"],
        "answer": row["answer"],
        "reasoning": row["reasoning"],
        "scores": scores,
        "tokens": (row.get("usage") or {}).get("completion_tokens"),
        "why": (row["scores"].get(gold) or {}).get("why"),
        "error": row.get("error"),
        "facts": row.get("facts"),
        "flags": [name for name, seen in (row.get("flags") or {}).items() if seen],
    }
    return {name: _shown(value) for name, value in told.items() if value or name in ("answer", "outcome")}


def _shown(value: Any) -> Any:
    """The same with every hidden character spelled out, in keys too."""
    if isinstance(value, str):
        return spelled_out(value)
    if isinstance(value, Mapping):
        return {spelled_out(str(key)): _shown(inner) for key, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, Sequence) else value
