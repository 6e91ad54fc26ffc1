"""Logs of inspect_ai, version 2: reads `.eval` (a zip of zstd members, one a sample) and `.json`; writes `.json`.

An own reader of the fields we need, so that no inspect_ai is wanted; fields are those of inspect_ai 0.3.285. Reasoning stays
apart from the answer, also where inspect left both in one text. Events, tools and sandboxes are not read.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import zstandard

from temper.errors import DataError
from temper.files import slug
from temper.prove.interop.reply import WHY, Given, Log, Reply, aside, each, number, want
from temper.text.split import CLOSE_TAG, OPEN_TAG, split
from temper.types import CLASSES, Better, Completion, Example, Message, Role, Score, Usage

VERSION = 2
ZSTD = 93  # the zip format's number of the method, which Python's zipfile knows only from 3.14 on
LARGEST = 1 << 30  # bytes of one member: more is a bomb, not a sample
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""inspect's verdicts: correct, incorrect, partial, no answer (its own `value_to_float` counts that as 0)."""
CUT = ("max_tokens", "model_length", "length")
ATTACHED = "attachment://"


def recognises(document: object) -> bool:
    return isinstance(document, dict) and "eval" in document and "version" in document


def read(path: Path, document: object = None) -> Log:
    """The replies of one log. Raises `DataError` that names the file, the member or sample, and the field."""
    if document is None:
        header, samples = _unzipped(path)
    else:
        header = dict(document) if isinstance(document, Mapping) else {}
        samples = iter(each(str(path), header, "samples", dict, []))
    version = want(str(path), header, "version", int)
    if version != VERSION:
        raise DataError(f"{path}: log version {version}; wanted {VERSION} (`inspect log convert` makes one)")
    spec = want(str(path), header, "eval", dict)
    task, model = want(f"{path} eval", spec, "task", str), want(f"{path} eval", spec, "model", str)
    suite = slug(task.removeprefix("temper/"))
    replies = tuple(_reply(place, sample, suite, model) for place, sample in samples)
    if not replies:
        raise DataError(f"{path}: holds no samples (status {header.get('status')}); wanted a log written with its samples")
    return Log("inspect", replies, _facts(header, spec))


def _facts(header: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    asked = {**aside(spec, "model_generate_config"), **aside(aside(header, "plan"), "config")}
    names = ("max_tokens", "temperature", "top_p", "seed", "system_message", "reasoning_effort", "reasoning_tokens")
    return {
        "version": aside(spec, "packages").get("inspect_ai", ""),
        "status": header.get("status", ""),
        "task": spec["task"],
        "dataset": aside(spec, "dataset").get("name") or "",
        "decoding": {name: asked[name] for name in names if asked.get(name) is not None},
    }


# --- the zip ----------------------------------------------------------------------------------------------------------


def _unzipped(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]:
    """The header and the samples, each with its place. A log that was never finished has only the header it began with."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a zip ({error}); wanted an .eval log of inspect_ai, whole") from None
    named = next((name for name in ("header.json", "_journal/start.json") if name in members), None)
    if named is None:
        raise DataError(f"{path}: has neither header.json nor _journal/start.json; wanted an .eval log of inspect_ai")
    wanted = [info for name, info in members.items() if name.startswith("samples/") and name.endswith(".json")]
    header = _member(path, members[named])
    return header, ((f"{path} {info.filename}", _member(path, info)) for info in wanted)


def _member(path: Path, info: zipfile.ZipInfo) -> dict[str, Any]:
    place = f"{path} {info.filename}"
    try:
        found = json.loads(_content(path, info, place))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: holds a {type(found).__name__}; wanted an object")
    return found


def _content(path: Path, info: zipfile.ZipInfo, place: str) -> bytes:
    if info.file_size > LARGEST:
        raise DataError(f"{place}: unpacks to {info.file_size:,} bytes; wanted at most {LARGEST:,}")
    try:
        if info.compress_type != ZSTD:
            with zipfile.ZipFile(path) as archive:
                return archive.read(info)
        body = zstandard.ZstdDecompressor().decompress(_packed(path, info), max_output_size=info.file_size)
    except (zipfile.BadZipFile, zlib.error, zstandard.ZstdError, NotImplementedError, OSError) as error:
        raise DataError(f"{place}: cannot be unpacked ({error}); is the log cut short?") from None
    if len(body) != info.file_size or zlib.crc32(body) != info.CRC:
        raise DataError(f"{place}: damaged (its checksum is another); copy the log again")
    return body


def _packed(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member as they lie in the file: behind a local header whose name and extra field may differ in length."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        file.seek(info.header_offset + 30 + name + extra)
        return file.read(info.compress_size)


# --- one sample -------------------------------------------------------------------------------------------------------


def _reply(place: str, sample: Mapping[str, Any], suite: str, model: str) -> Reply:
    attached = want(place, sample, "attachments", dict, {})
    metadata = want(place, sample, "metadata", dict, {})
    example = example_of(place, sample, metadata, attached, suite)
    how = metadata.get("how")
    return Reply(
        suite,
        model,
        completion_of(place, sample, example, attached),
        max(0, want(place, sample, "epoch", int, 1) - 1),
        _scores(place, want(place, sample, "scores", dict, {})),
        metadata["of"] if isinstance(metadata.get("of"), str) else "",
        tuple(map(str, how)) if isinstance(how, list) else (),
    )


def example_of(
    place: str, sample: Mapping[str, Any], told: Mapping[str, Any], attached: Mapping[str, str], suite: str
) -> Example:
    """What a sample asked, with the class and the group that its metadata tells. Raises `DataError`."""
    if sample.get("id") is None:
        raise DataError(f"{place}: field 'id' is missing; wanted text or a number")
    asked, target = sample.get("input"), sample.get("target")
    targets = [target] if isinstance(target, str) else [t for _, t in each(place, sample, "target", str, [])]
    category, language, group, goal = (_text(told, name) for name in ("category", "language", "group", "goal"))
    return Example(
        str(sample["id"]),
        _messages(place, asked, attached),
        # a list names alternatives, and a row has room for one answer only
        targets[0] if len(targets) == 1 and targets[0] else None,
        frozenset({*(c for c in CLASSES if told.get("class") == c), *([f"category:{category}"] if category else [])}),
        source=f"inspect:{suite}",
        language=language or "en",
        group=group,
        goal=goal,
    )


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""


def _messages(place: str, asked: object, attached: Mapping[str, str]) -> tuple[Message, ...]:
    if isinstance(asked, str):
        return (Message("user", _resolved(asked, attached)),)
    if not isinstance(asked, list) or not asked:
        raise DataError(
            f"{place}: field 'input' is {'missing' if asked is None else type(asked).__name__}; wanted text or messages"
        )
    found = []
    for where, message in each(place, {"input": asked}, "input", dict):
        role = want(where, message, "role", str)
        speaker: Role = role if role in ("system", "assistant") else "user"
        found.append(Message(speaker, _parts(where, message, attached)[1]))
    return tuple(found)


def _parts(place: str, message: Mapping[str, Any], attached: Mapping[str, str]) -> tuple[list[str], str]:
    """The reasoning blocks of a message, and its text; images and tool uses are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return [], _resolved(content, attached)
    blocks = [block for _, block in each(place, message, "content", dict, [])]
    thoughts = [block for block in blocks if block.get("type") == "reasoning"]
    texts = [_resolved(str(block.get("text") or ""), attached) for block in blocks if block.get("type") == "text"]
    return [_resolved(_thought(block), attached) for block in thoughts], "\n".join(t for t in texts if t)


def _thought(block: Mapping[str, Any]) -> str:
    """A thought, or what the provider told of one that it keeps to itself: what is encrypted there is no text."""
    return str((block.get("summary") if block.get("redacted") else block.get("reasoning")) or "")


def _resolved(text: str, attached: Mapping[str, str]) -> str:
    return attached.get(text.removeprefix(ATTACHED), text) if text.startswith(ATTACHED) else text


def completion_of(place: str, sample: Mapping[str, Any], example: Example, attached: Mapping[str, str]) -> Completion:
    """What a sample's output holds, reasoning and answer apart. Raises `DataError`."""
    output = want(place, sample, "output", dict, {})
    choices = each(f"{place} output", output, "choices", dict, [])
    error = want(place, sample, "error", dict, {}).get("message") or output.get("error") or ""
    if not choices or (error and not output.get("completion")):
        return Completion(example, "", finish="error", error=str(error) or "the log holds no output")
    where, choice = choices[0]
    message = want(where, choice, "message", dict)
    thoughts, text = _parts(where, message, attached)
    parts = split(text, reasoning_content="\n".join(thoughts) if thoughts else None)
    stop = want(where, choice, "stop_reason", str, "unknown")
    return Completion(
        example,
        parts.answer,
        parts.reasoning,
        finish="length" if stop in CUT else "stop",
        thought=parts.thought,
        raw=_raw(thoughts, text),
        usage=_usage(f"{place} output", output),
        facts=_told(sample, output, message, stop, redacted=_redacted(message)),
    )


def _raw(thoughts: Sequence[str], text: str) -> str:
    """What the model wrote, as far as the log tells: the thought in tags again, open where nothing follows it."""
    if not thoughts:
        return text
    thought = "\n".join(thoughts)
    return f"{OPEN_TAG}{thought}{CLOSE_TAG}{text}" if text else f"{OPEN_TAG}{thought}"


def _usage(place: str, output: Mapping[str, Any]) -> Usage | None:
    found = want(place, output, "usage", dict, None)
    if found is None:
        return None
    read_ = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")
    prompt = sum(want(f"{place} usage", found, name, int, 0) for name in read_)
    said, thought = (want(f"{place} usage", found, name, int, None) for name in ("output_tokens", "reasoning_tokens"))
    seconds = output.get("time")
    return Usage(prompt, said or 0, float(seconds) if isinstance(seconds, int | float) else 0.0, thought)


def _redacted(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(isinstance(block, dict) and block.get("redacted") for block in content)


def _told(
    sample: Mapping[str, Any], output: Mapping[str, Any], message: Mapping[str, Any], stop: str, *, redacted: bool
) -> dict[str, object]:
    """What only some samples have: how they ended where that says more than a row can, tools, turns, a hidden thought."""
    calls = message.get("tool_calls")
    turns = sample.get("turn_count")
    told = {
        "stop_reason": stop if stop not in (*CUT, "stop") else "",
        "limit": aside(sample, "limit").get("type", ""),
        "turns": turns if isinstance(turns, int) and turns > 1 else None,
        "tool_calls": [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else None,
        "reasoning": "redacted by the provider" if redacted else "",
        "model": output.get("model") if output.get("fallback") else "",
    }
    return {name: value for name, value in told.items() if value}


def _scores(place: str, given: Mapping[str, Any]) -> Given:
    """Each scorer's value under `inspect:SCORER`, each entry of one that gives several under `inspect:SCORER/ENTRY`."""
    found: dict[str, tuple[Score, Better]] = {}
    for name in given:
        score = want(f"{place} scores", given, name, dict)
        value, why = score.get("value"), str(score.get("explanation") or "")[:WHY]
        # our own graders say which end is the good one; inspect has no field for it, and most of its scorers score success
        end: Better = "low" if aside(score, "metadata").get("better") == "low" else "high"
        if isinstance(value, dict):
            found |= {f"inspect:{name}/{entry}": (_score(v, why), end) for entry, v in value.items()}
        else:
            found[f"inspect:{name}"] = (_score(value, why), end)
    return found


def _score(value: object, why: str) -> Score:
    return Score(LETTERS[value], why) if isinstance(value, str) and value in LETTERS else number(value, why)


# --- writing ----------------------------------------------------------------------------------------------------------

_STOPS = {"length": "max_tokens", "stop": "stop", "error": "unknown"}
Status = Literal["success", "error"]


def written(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """One log of one suite and arm, as the JSON of version 2; `rows` share both. `inspect view` opens it.

    What a row knows and inspect has no field for (class, outcome, group, how) stands in a sample's metadata, from where `read`
    takes it back. A score that is none is inspect's own mark for unscored, NaN.
    """
    first = rows[0]
    created, model = facts["created"], facts["model"]
    ids = list(dict.fromkeys(row["id"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    epochs = 1 + max(row["sample"] for row in rows)
    spec = {
        "eval_id": facts["id"],
        "run_id": facts["id"],
        "created": created,
        "task": first["suite"],
        "task_id": facts["id"],
        "task_version": 0,
        "task_attribs": {},
        "task_args": {},
        "dataset": {"name": first["suite"], "samples": len(ids), "sample_ids": ids, "shuffled": False},
        "model": model,
        "model_generate_config": facts["decoding"],
        "model_args": {},
        "config": {"epochs": epochs, "log_samples": True},
        "packages": {"temper-llm": facts["version"]},
        "metadata": {"arm": first["arm"], "written_by": "temper"},
        "scorers": [{"name": name, "options": {}, "metrics": [{"name": "inspect_ai/mean", "options": {}}]} for name in names],
    }
    return {
        "version": VERSION,
        "status": "success",
        "eval": spec,
        "plan": {
            "name": "plan",
            "steps": [{"solver": "generate", "params": {}, "params_passed": {}}],
            "config": facts["decoding"],
        },
        "results": {
            "total_samples": len(rows),
            "completed_samples": sum(row["finish"] != "error" for row in rows),
            "scores": [_summary(name, rows) for name in names],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {model: _total(rows)}},
        "samples": [_sample(row, model) for row in rows],
    }


def _summary(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [row["scores"].get(name, {}).get("value") for row in rows]
    known = [value for value in values if value is not None]
    mean = {"mean": {"name": "mean", "value": sum(known) / len(known), "params": {}}} if known else {}
    counted = {"scored_samples": len(known), "unscored_samples": len(values) - len(known)}
    return {"name": name, "scorer": name, **counted, "params": {}, "metrics": mean}


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    each_ = [row.get("usage") or {} for row in rows]
    asked, said = (sum(usage.get(name) or 0 for usage in each_) for name in ("prompt_tokens", "completion_tokens"))
    return {"input_tokens": asked, "output_tokens": said, "total_tokens": asked + said}


def _sample(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    asked = [dict(m) for m in row.get("asked") or [{"role": "user", "content": row["prompt"]}]]
    said = _said(row)
    kept = ("class", "category", "language", "group", "outcome", "thought", "of", "how", "facts", "key")
    goal = {"goal": row["prompt"]} if row.get("asked") else {}
    failed = (
        {"error": {"message": row.get("error", ""), "traceback": "", "traceback_ansi": ""}} if row["finish"] == "error" else {}
    )
    return {
        "id": row["id"],
        "epoch": row["sample"] + 1,
        "input": asked if row.get("asked") else row["prompt"],
        "target": row["target"] or "",
        "messages": [*asked, *([] if failed else [said])],
        "output": _output(row, said, model),
        **_spent(row, model),
        "scores": {name: _given(score) for name, score in row["scores"].items()},
        "metadata": {name: row[name] for name in kept if row.get(name)} | goal,
        "uuid": row["key"],
        **failed,
    }


def _spent(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What the viewer's columns of tokens and duration read; nothing where nobody counted."""
    usage = row.get("usage") or {}
    if usage.get("completion_tokens") is None:
        return {}
    return {"model_usage": {model: _total([row]) | _thinking(usage)}, "total_time": usage.get("seconds")}


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """The reply as a message: a thought is a block of its own, also one that the cap cut."""
    text: dict[str, Any] = {"type": "text", "text": row["answer"]}
    thought: list[dict[str, Any]] = [{"type": "reasoning", "reasoning": row["reasoning"]}] if row["reasoning"] else []
    return {"role": "assistant", "source": "generate", "content": [*thought, text] if thought else row["answer"]}


def _output(row: Mapping[str, Any], said: Mapping[str, Any], model: str) -> dict[str, Any]:
    if row["finish"] == "error":
        return {"model": model, "choices": [], "completion": ""}
    usage = row.get("usage") or {}
    counts = {} if usage.get("completion_tokens") is None else {"usage": _total([row]) | _thinking(usage)}
    choice = {"message": said, "stop_reason": _STOPS[row["finish"]]}
    return {"model": model, "choices": [choice], "completion": row["answer"], **counts, "time": usage.get("seconds")}


def _thinking(usage: Mapping[str, Any]) -> dict[str, int]:
    return {} if usage.get("reasoning_tokens") is None else {"reasoning_tokens": usage["reasoning_tokens"]}


def _given(score: Mapping[str, Any]) -> dict[str, Any]:
    value = score["value"]
    parts = {"parts": dict(score["parts"])} if score.get("parts") else {}
    told = {"metadata": {"better": score.get("better", "high"), **parts}}
    return {"value": float("nan") if value is None else value, "explanation": score.get("why") or None, **told}
