"""Results of `promptfoo eval -o FILE.json` (versions 2 and 3 of its results): one reply for each prompt, test and provider."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temper.files import digest, slug
from temper.prove.interop.reply import ROLES, WHY, Given, Log, Reply, aside, each, number, want
from temper.text.split import split
from temper.types import CLASSES, Completion, Example, Message, Usage

UNKNOWN = ("how each reply ended, where the provider's answer does not say",)


def recognises(document: object) -> bool:
    return isinstance(document, dict) and isinstance(document.get("results"), dict) and "results" in document["results"]


def read(path: Path, document: object) -> Log:
    """Raises `DataError`."""
    assert isinstance(document, dict), "recognises has seen to it"
    results = want(str(path), document, "results", dict)
    suite = slug(str(aside(document, "config").get("description") or path.stem))
    found = each(f"{path} results", results, "results", dict)
    seen: dict[tuple[str, str], int] = {}
    replies = []
    for place, row in found:
        reply = _reply(place, row, suite)
        key = (reply.model, reply.completion.example.id)
        seen[key] = sample = seen.get(key, -1) + 1
        replies.append(Reply(suite, reply.model, reply.completion, sample, reply.scores))
    facts = {"version": str(aside(document, "metadata").get("promptfooVersion") or ""), "decoding": {}}
    return Log("promptfoo", tuple(replies), facts, UNKNOWN)


def _reply(place: str, row: Mapping[str, Any], suite: str) -> Reply:
    raw = want(f"{place} prompt", want(place, row, "prompt", dict), "raw", str)
    provider = row.get("provider")
    model = str(provider.get("label") or provider.get("id") if isinstance(provider, dict) else provider or "promptfoo")
    told = want(place, row, "testCase", dict, {}).get("metadata") or want(place, row, "metadata", dict, {})
    example = Example(
        digest(raw), _messages(raw), tags=frozenset(c for c in CLASSES if told.get("class") == c), source=f"promptfoo:{suite}"
    )
    return Reply(suite, model, _completion(place, row, example), scores=_scores(place, row))


def _messages(raw: str) -> tuple[Message, ...]:
    """A chat prompt is the JSON of its messages."""
    try:
        found = json.loads(raw) if raw.lstrip().startswith("[") else None
        return tuple(Message(ROLES[m["role"]], m["content"]) for m in found) if found else (Message("user", raw),)
    except (ValueError, KeyError, TypeError):
        return (Message("user", raw),)


def _completion(place: str, row: Mapping[str, Any], example: Example) -> Completion:
    response = want(place, row, "response", dict, {})
    output = response.get("output")
    if output is None:
        why = response.get("error") or row.get("error") or "promptfoo got no output"
        return Completion(example, "", finish="error", error=str(why))
    raw = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    parts, tokens = split(raw), aside(response, "tokenUsage")
    ended = response.get("finishReason")
    asked, said = tokens.get("prompt"), tokens.get("completion")
    usage = Usage(asked, said) if isinstance(asked, int) and isinstance(said, int) else None
    return Completion(
        example,
        parts.answer,
        parts.reasoning,
        finish="length" if ended == "length" else "stop",
        thought=parts.thought,
        raw=raw,
        usage=usage,
        facts={} if ended else {"unknown": ["finish"]},
    )


def _scores(place: str, row: Mapping[str, Any]) -> Given:
    """`promptfoo:pass`, its score, and the metrics that the configuration names; nothing where the row is an error."""
    grading = want(place, row, "gradingResult", dict, {})
    if not grading:
        return {}
    why = str(grading.get("reason") or "")[:WHY]
    named = {f"promptfoo:{name}": (number(value), "high") for name, value in aside(row, "namedScores").items()}
    own = {
        "promptfoo:pass": (number(grading.get("pass"), why), "high"),
        "promptfoo:score": (number(grading.get("score")), "high"),
    }
    return {**own, **named}  # type: ignore[dict-item]
