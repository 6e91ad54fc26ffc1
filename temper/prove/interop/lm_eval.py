"""Files of lm-evaluation-harness: reads `samples_*.jsonl` with the `results_*.json` beside it, writes both shapes.

Fields are those of lm_eval 0.4.13. It records no finish reason and no token counts, and where `think_end_token` was set it has
cut the reasoning off before it wrote: all three stay unknown here.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from temper.data.rows import Located, rows
from temper.errors import DataError
from temper.files import read_json, slug
from temper.prove.interop.reply import Given, Log, Reply, aside, each, number, want
from temper.prove.metrics import Measured, Metric
from temper.text.split import split
from temper.types import Completion, Example, Message, Role

SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl(?:\.gz|\.zst)?")
UNKNOWN = (
    "how each reply ended: lm-eval records no finish reason, so a reply that the token cap cut looks like a whole one",
    "how many tokens were read and written",
)
CUT_OFF = "the reasoning: lm-eval cut it off before it wrote (think_end_token was set)"
Z95 = 1.959964  # half a 95 % interval in standard errors


def recognises(document: object) -> bool:
    """A results file (`results` and `configs`), or rows with a document and its responses."""
    if isinstance(document, dict):
        return "results" in document and "configs" in document
    return isinstance(document, list) and bool(document) and {"doc_id", "resps"} <= document[0][1].keys()


def read(path: Path, document: object) -> Log:
    """All tasks of a results file, or the one task of a samples file. Raises `DataError`."""
    if isinstance(document, dict):
        found = [p for p in sorted(path.parent.glob("samples_*.jsonl*")) if _time(p) == path.stem.removeprefix("results_")]
        if not found:
            raise DataError(
                f"{path}: no samples_*_{path.stem.removeprefix('results_')}.jsonl beside it; run lm-eval with --log_samples"
            )
        tasks = {p: list(rows(str(p))) for p in found}
        results: Mapping[str, Any] = document
    else:
        assert isinstance(document, list), "recognises has seen to it"
        tasks = {path: document}
        beside = path.with_name(f"results_{_time(path)}.json")
        results = read_json(beside) if beside.is_file() else {}
    model = str(results.get("model_name") or _config(results, "model") or "lm-eval")
    cut_off = "think_end_token" in json.dumps(_config(results, "model_args") or "")
    replies = [reply for p, located in tasks.items() for reply in _task(p, located, results, model, cut_off)]
    return Log("lm-eval", tuple(replies), _facts(results, tasks), (*UNKNOWN, *([CUT_OFF] if cut_off else [])))


def _time(path: Path) -> str:
    found = SAMPLES.fullmatch(path.name)
    return found["time"] if found else ""


def _name(path: Path) -> str:
    found = SAMPLES.fullmatch(path.name)
    return found["task"] if found else path.name.partition(".")[0].removeprefix("samples_")


def _config(results: Mapping[str, Any], name: str) -> Any:
    return aside(results, "config").get(name)


def _facts(results: Mapping[str, Any], tasks: Mapping[Path, object]) -> dict[str, Any]:
    configs = aside(results, "configs")
    asked = {_name(p): aside(aside(configs, _name(p)), "generation_kwargs") for p in tasks}
    decoding = next((kwargs for kwargs in asked.values() if kwargs), {})
    renamed = {"max_gen_toks": "max_tokens"}
    return {
        "version": str(results.get("lm_eval_version") or ""),
        "tasks": list(asked),
        "n_shot": results.get("n-shot") or {},
        "decoding": {renamed.get(k, k): v for k, v in decoding.items() if isinstance(v, int | float)},
    }


def _task(path: Path, located: Sequence[Located], results: Mapping[str, Any], model: str, cut_off: bool) -> list[Reply]:
    """One reply for each document and response; the rows of several filters of one document become several scores."""
    task = _name(path)
    better = aside(aside(results, "higher_is_better"), task)
    by_document: dict[int, list[Located]] = {}
    for place, row in located:
        by_document.setdefault(want(place, row, "doc_id", int), []).append((place, row))
    return [reply for of in by_document.values() for reply in _document(of, slug(task), model, better, cut_off)]


def _document(of: Sequence[Located], task: str, model: str, better: Mapping[str, bool], cut_off: bool) -> list[Reply]:
    place, row = of[0]
    messages = _asked(place, row)
    responses = each(place, row, "resps", list)
    if len(responses) != 1 or not all(isinstance(text, str) for text in responses[0][1]):
        raise DataError(
            f"{place}: task {task!r} scores log-likelihoods, so its model wrote nothing; wanted a generate_until task"
        )
    scores = {name: pair for where, r in of for name, pair in _scores(where, r, better).items()}
    document, target = row.get("doc"), row.get("target")
    klass = document.get("class") if isinstance(document, dict) else None
    example = Example(
        str(row["doc_id"]),
        messages,
        str(target) if target not in (None, "") else None,
        frozenset({klass} if isinstance(klass, str) else ()),
        source=f"lm-eval:{task}",
    )
    unknown = ["finish", *(["thought"] if cut_off else [])]
    return [
        Reply(task, model, _completion(example, text, unknown), k, scores if len(responses[0][1]) == 1 else {})
        for k, text in enumerate(responses[0][1])
    ]


def _completion(example: Example, text: str, unknown: list[str]) -> Completion:
    parts = split(text)
    return Completion(example, parts.answer, parts.reasoning, thought=parts.thought, raw=text, facts={"unknown": unknown})


def _asked(place: str, row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt, as messages where the chat template was left to the server (then it is their JSON)."""
    arguments = want(place, row, "arguments", dict)
    first = arguments.get("gen_args_0")
    if not isinstance(first, dict) or "arg_0" not in first:
        raise DataError(f"{place}: field 'arguments' has no gen_args_0.arg_0; wanted the samples file of lm_eval 0.4")
    if isinstance(first.get("arg_1"), str):
        raise DataError(f"{place}: this task scores log-likelihoods, so its model wrote nothing; wanted a generate_until task")
    prompt = first["arg_0"]
    text = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if not isinstance(text, str):
        raise DataError(f"{place}: gen_args_0.arg_0 is a {type(text).__name__}; wanted text")
    return _turns(text) or (Message("user", text),)


def _turns(text: str) -> tuple[Message, ...]:
    if not text.startswith("[{"):
        return ()
    try:
        found = json.loads(text)
        roles: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
        return tuple(Message(roles[m["role"]], m["content"]) for m in found)
    except (ValueError, KeyError, TypeError):
        return ()  # a prompt that merely looks like messages


def _scores(place: str, row: Mapping[str, Any], better: Mapping[str, bool]) -> Given:
    """Every metric of a row under `lm-eval:METRIC,FILTER`, the form in which lm-eval itself writes them."""
    names = [name for _, name in each(place, row, "metrics", str, [])]
    of = want(place, row, "filter", str, "none")
    return {f"lm-eval:{n},{of}": (number(row.get(n)), "low" if better.get(n) is False else "high") for n in names}


# --- writing ----------------------------------------------------------------------------------------------------------


def results(
    measured: Mapping[str, Mapping[str, Measured]], metrics: Mapping[str, Metric], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A results file of one arm, by suite; each metric under `NAME,none`, as lm-eval's readers look for it.

    The standard error is half the 95 % interval over 1.96, lm-eval's "N/A" where the interval has no bounds; the interval itself
    and the number of ungraded rows stand beside it.
    """
    found: dict[str, dict[str, Any]] = {}
    for suite, values in measured.items():
        found[suite] = {"alias": suite}
        for name, m in values.items():
            if not (e := m.estimate).n:
                continue
            known, spread = e.as_dict(), (e.high - e.low) / 2 / Z95
            found[suite] |= {f"{name},none": e.value, f"{name}_stderr,none": spread if math.isfinite(spread) else "N/A"}
            found[suite] |= {f"{name}_low,none": known["low"], f"{name}_high,none": known["high"]}
            found[suite] |= {f"{name}_ungraded,none": m.ungraded}
    named = {name for values in measured.values() for name in values}
    return {
        "results": found,
        "group_subtasks": {suite: [] for suite in measured},
        "configs": {
            suite: {"task": suite, "output_type": "generate_until", "generation_kwargs": facts["decoding"]} for suite in measured
        },
        "versions": dict.fromkeys(measured, 1),
        "n-shot": dict.fromkeys(measured, 0),
        "higher_is_better": {s: {n: metrics[n].better == "high" for n in named if n in measured[s]} for s in measured},
        "n-samples": {s: {"original": facts["n"][s], "effective": facts["n"][s]} for s in measured},
        "config": {"model": "temper", "model_args": f"model={facts['model']}", **facts["decoding"]},
        "model_source": "temper",
        "model_name": facts["model"],
        "model_name_sanitized": slug(facts["model"]),
        "lm_eval_version": "",
        "git_hash": facts["commit"],
        "date": facts["finished"],
    }


def sample(row: Mapping[str, Any], number_: int) -> dict[str, Any]:
    """One row as lm-eval logs it; the reasoning stays in `resps`, the answer alone is what was filtered."""
    values = {name: score["value"] for name, score in row["scores"].items() if score["value"] is not None}
    asked = json.dumps(row["asked"], ensure_ascii=False) if row.get("asked") else row["prompt"]
    kept = ("id", "class", "category", "language", "group", "sample", "outcome", "how")
    return {
        "doc_id": number_,
        "doc": {name: row[name] for name in kept if row.get(name) not in (None, "")} | {"prompt": row["prompt"]},
        "target": row["target"] or "",
        "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": {}}},
        "resps": [[row["raw"] or row["answer"]]],
        "filtered_resps": [row["answer"]],
        "filter": "none",
        "metrics": list(values),
        **values,
    }
