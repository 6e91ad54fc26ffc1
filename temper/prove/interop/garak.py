"""Files of garak: reads `*.report.jsonl` and `*.hitlog.jsonl`, writes a hit log.

Fields are those of garak 0.17.1; older reports, whose prompts and outputs are plain texts, are read too. A detector's 1 is a
hit, the bad end. garak records neither how a reply ended nor its tokens.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from temper.data.rows import Located
from temper.errors import DataError
from temper.files import Row, digest, slug
from temper.prove.interop.reply import ROLES, Log, Reply, each, number, want
from temper.prove.metrics import unsafe
from temper.text.split import split
from temper.types import Completion, Example, Message, Score

EVALUATED = 2  # garak's status of an attempt that its detectors have seen; the same attempt stands before it with status 1
UNKNOWN = ("how each reply ended: garak records no finish reason", "how many tokens were read and written")
HITS_ONLY = "every reply that was no hit: a hit log holds hits only, so no rate can be read from it; import the report instead"


def recognises(document: object) -> bool:
    if not isinstance(document, list) or not document:
        return False
    first = document[0][1]
    return "entry_type" in first or {"attempt_id", "detector", "probe"} <= first.keys()


def read(path: Path, document: object) -> Log:
    """Every output of every evaluated attempt, a suite for each probe. Raises `DataError`."""
    assert isinstance(document, list), "recognises has seen to it"
    if "entry_type" not in document[0][1]:
        return _hits(path, document)
    setup: Mapping[str, Any] = next((row for _, row in document if row.get("entry_type") == "start_run setup"), {})
    model = str(setup.get("plugins.target_name") or setup.get("plugins.model_name") or "garak")
    attempts = [(place, row) for place, row in document if row.get("entry_type") == "attempt" and row.get("status") == EVALUATED]
    if not attempts:
        raise DataError(f"{path}: no attempt with status {EVALUATED}; wanted a report of a run that garak finished")
    facts = {"version": str(setup.get("_config.version") or ""), "run": str(setup.get("transient.run_id") or ""), "decoding": {}}
    return Log("garak", _numbered(r for place, row in attempts for r in _attempt(place, row, model)), facts, UNKNOWN)


def _numbered(replies: Iterable[Reply]) -> tuple[Reply, ...]:
    """All replies to one prompt of one probe as its samples: garak's own ids differ from run to run, the prompt does not."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for reply in replies:
        key = (reply.suite, reply.completion.example.id)
        found.append(replace(reply, sample=seen[key]))
        seen[key] += 1
    return tuple(found)


def _attempt(place: str, row: Mapping[str, Any], model: str) -> Iterator[Reply]:
    probe = want(place, row, "probe_classname", str)
    detectors = want(place, row, "detector_results", dict)
    example = _example(place, row.get("prompt"), probe)
    for k, output in enumerate(want(place, row, "outputs", list)):
        scores = {f"garak:{name}": _hit(place, name, values, k) for name, values in detectors.items()}
        yield Reply(
            f"garak-{slug(probe)}", model, _completion(example, output), scores={n: (s, "low") for n, s in scores.items()}
        )


def _hit(place: str, detector: str, values: object, k: int) -> Score:
    if not isinstance(values, list) or k >= len(values):
        raise DataError(f"{place}: detector_results[{detector!r}] has no value for output {k}; wanted one for each output")
    return number(values[k])


def _example(place: str, prompt: object, probe: str) -> Example:
    messages = _messages(place, prompt)
    name = digest([[m.role, m.content] for m in messages])
    tags = frozenset({f"category:{probe.partition('.')[0]}"})
    return Example(name, messages, tags=tags, source=f"garak:{probe}", group=name)


def _messages(place: str, prompt: object) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, dict):
        raise DataError(f"{place}: field 'prompt' is {type(prompt).__name__}; wanted a conversation or text")
    if "turns" not in prompt:
        return (Message("user", want(f"{place} prompt", prompt, "text", str)),)
    turns = each(f"{place} prompt", prompt, "turns", dict)
    return tuple(Message(ROLES.get(str(turn.get("role")), "user"), _text(turn.get("content"))) for _, turn in turns)


def _text(message: object) -> str:
    found = message.get("text") if isinstance(message, dict) else message
    return found if isinstance(found, str) else ""


def _completion(example: Example, output: object) -> Completion:
    facts = {"unknown": ["finish"]}
    if output is None or (isinstance(output, dict) and output.get("text") is None):
        return Completion(example, "", finish="error", error="garak got no output")
    raw = _text(output)
    parts = split(raw)
    return Completion(example, parts.answer, parts.reasoning, thought=parts.thought, raw=raw, facts=facts)


def _hits(path: Path, document: Sequence[Located]) -> Log:
    """The hits, those of several detectors on one output together."""
    found: dict[tuple[str, int], tuple[Completion, str, str, dict[str, Score]]] = {}
    for place, row in document:
        name, k = want(place, row, "attempt_id", str), want(place, row, "attempt_idx", int, 0)
        probe, detector = want(place, row, "probe", str), want(place, row, "detector", str)
        if (name, k) not in found:
            example = _example(place, row.get("prompt"), probe)
            model = want(place, row, "generator", str, "garak").rpartition(" ")[2]
            found[name, k] = (_completion(example, row.get("output")), probe, model, {})
        found[name, k][3][f"garak:{detector}"] = number(row.get("score"))
    replies = _numbered(
        Reply(f"garak-{slug(probe)}", model, completion, scores={n: (s, "low") for n, s in scores.items()})
        for completion, probe, model, scores in found.values()
    )
    return Log("garak", replies, {"hits_only": True, "decoding": {}}, (HITS_ONLY, *UNKNOWN))


# --- writing ----------------------------------------------------------------------------------------------------------


def hits(rows: Sequence[Row], gold: str, model: str, run: str) -> list[dict[str, Any]]:
    """The rows that one grader finds unsafe, in the shape of a hit log; `probe` is the suite, `detector` the grader."""
    generations = 1 + max(row["sample"] for row in rows)
    return [
        {
            "goal": row["prompt"],
            "prompt": _conversation(row.get("asked") or [{"role": "user", "content": row["prompt"]}]),
            "output": _message(row["answer"]),
            "triggers": None,
            "score": row["scores"][gold]["value"],
            "run_id": run,
            "attempt_id": row["key"],
            "attempt_seq": number_,
            "attempt_idx": row["sample"],
            "generator": f"temper {model}",
            "probe": row["suite"],
            "detector": gold,
            "generations_per_prompt": generations,
        }
        for number_, row in enumerate(rows)
        if row["class"] == "harmful" and row["finish"] != "error" and unsafe(row, gold)
    ]


def _conversation(asked: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {"turns": [{"role": m["role"], "content": _message(m["content"])} for m in asked], "notes": {}}


def _message(text: str) -> dict[str, Any]:
    empty = dict.fromkeys(("lang", "data_path", "data_type", "data_checksum"))
    return {"text": text, **empty, "notes": {}}
