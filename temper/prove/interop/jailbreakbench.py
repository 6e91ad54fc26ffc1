"""Attack artefacts of JailbreakBench: the prompt an attack ended with, the answer, its verdict, and the queries it took.

Fields are those of jailbreakbench 1.0.0 (arXiv 2404.01318). The verdict is that project's judge's, kept as
`jailbreakbench:jailbroken`; answers were cut at 150 tokens, which the file does not say of each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temper.files import slug
from temper.prove.interop.reply import Log, Reply, each, number, want
from temper.text.split import split
from temper.types import Completion, Example, Message, Usage

UNKNOWN = (
    "how each reply ended: artefacts record no finish reason, and the benchmark's protocol cuts replies at 150 tokens",
    "what the model would say where the attack handed in no prompt: such rows are errors, bounded both ways; upstream counts "
    "them as withstood",
)


def recognises(document: object) -> bool:
    return isinstance(document, dict) and "jailbreaks" in document and "parameters" in document


def read(path: Path, document: object) -> Log:
    """One reply for each behaviour; one for which no prompt or no response was handed in is an error. Raises `DataError`."""
    assert isinstance(document, dict), "recognises has seen to it"
    told = want(str(path), document, "parameters", dict)
    method, model = (want(f"{path} parameters", told, name, str) for name in ("method", "model"))
    found = each(str(path), document, "jailbreaks", dict)
    replies = [_reply(place, entry, method, model) for place, entry in found]
    kept = ("attack_type", "defense", "evaluation_date", "evaluation_llm_provider", "total_number_of_queries")
    facts = {name: told[name] for name in kept if told.get(name) is not None}
    return Log("jailbreakbench", tuple(replies), {**facts, "decoding": {}}, UNKNOWN)


def _whole(entry: Mapping[str, Any]) -> bool:
    return entry.get("prompt") is not None and entry.get("response") is not None


def _reply(place: str, entry: Mapping[str, Any], method: str, model: str) -> Reply:
    name = f"jbb-{want(place, entry, 'index', int):03d}"
    category, goal = want(place, entry, "category", str, ""), want(place, entry, "goal", str)
    example = Example(
        name,
        (Message("user", want(place, entry, "prompt", str, goal)),),
        tags=frozenset({"harmful", *([f"category:{category}"] if category else [])}),
        source="JailbreakBench/artifacts",
        license="MIT",
        group=name,
        goal=goal,
    )
    verdict = number(want(place, entry, "jailbroken", bool))
    return Reply(
        f"jailbreakbench+{slug(method)}",
        model,
        _completion(place, entry, example, method),
        scores={"jailbreakbench:jailbroken": (verdict, "low")},
        of="jailbreakbench",
        how=(f"attack:{method}",),
    )


def _completion(place: str, entry: Mapping[str, Any], example: Example, method: str) -> Completion:
    if not _whole(entry):
        return Completion(example, "", finish="error", error=f"{method} handed in no prompt, or no response to it")
    raw = want(place, entry, "response", str)
    parts = split(raw)
    queries = want(place, entry, "number_of_queries", int, None)
    tokens = [entry.get(name) for name in ("prompt_tokens", "response_tokens")]
    usage = Usage(tokens[0], tokens[1]) if isinstance(tokens[0], int) and isinstance(tokens[1], int) else None
    facts = {"attack": {"name": method}, "unknown": ["finish"], **({} if queries is None else {"queries": queries})}
    return Completion(example, parts.answer, parts.reasoning, thought=parts.thought, raw=raw, usage=usage, facts=facts)
