"""Whether an answer has the form it was asked for: JSON (against a schema), a table, Markdown, numbered steps, LaTeX.

An example asks by a tag: `format:json`, `format:table`, `format:markdown`, `format:steps`, `format:latex`; without it the grader
abstains. Each value is the share of its checks that hold, 0.0 where the thing itself is missing; `parts` holds the checks.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from temper.errors import DataError
from temper.text.invisible import visible
from temper.text.markup import fenced, is_schema, latex, markdown, steps, tables
from temper.types import Better, Completion, Score

_JSON = frozenset({"", "json", "JSON"})
"""What a fence that may hold JSON says after its backticks."""
_LONG_INTEGER = 300


@dataclass(frozen=True, slots=True)
class Json:
    """Whether the answer is JSON, where the example asks for it (tag `format:json`): the mean of its checks.

    `parses`; `only` (nothing but JSON, or one fence that holds it); `valid` against the schema, None without one.
    The schema is the example's target, where that is a JSON object with `$schema`, else `schema` (its text; every example is then
    asked for JSON). It never fetches what a schema refers to. Without jsonschema-rs installed, a schema means an abstention.
    Invisible characters outside strings make JSON that no parser takes: it is not valid, and `why` says so. Raises `DataError`
    for a schema that is none.
    """

    schema: str = ""
    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [self._score(c) for c in completions]

    def _score(self, completion: Completion) -> Score:
        if not (self.schema or _asked(completion, "json")):
            return _not_asked("json")
        target = completion.example.target or ""
        schema = target if is_schema(target) else self.schema
        try:
            validator = _validator(schema) if schema else None
        except ImportError:
            return Score(None, "a JSON Schema needs jsonschema-rs: pip install 'temper-llm[verify]'")
        except ValueError as error:
            raise DataError(f"example {completion.example.id!r}: not a JSON Schema: {error}") from error
        return _json_score(completion.answer, validator)


@dataclass(frozen=True, slots=True)
class Tables:
    """Whether the answer holds a whole table, where the example asks for one (tag `format:table`): the mean of its checks.

    `delimiter` (as wide as the header), `rows` (at least one), `cells` (share of rows as wide as the header).
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_table(c.answer) if _asked(c, "table") else _not_asked("table") for c in completions]


@dataclass(frozen=True, slots=True)
class MarkdownFormat:
    """Whether the answer is well-formed Markdown, where the example asks for it (tag `format:markdown`): the mean of its checks.

    `structure` (there is some), and that `fences`, `headings`, `lists`, `emphasis` and `links` are whole.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_markdown(c.answer) if _asked(c, "markdown") else _not_asked("markdown") for c in completions]


@dataclass(frozen=True, slots=True)
class Steps:
    """Whether the answer's steps are numbered in order, where the example asks for steps (tag `format:steps`).

    The share of the outermost numbered steps that follow the one before, the first being 1; 0.0 for fewer than two steps.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_steps(c.answer) if _asked(c, "steps") else _not_asked("steps") for c in completions]


@dataclass(frozen=True, slots=True)
class LatexFormat:
    r"""Whether the answer's LaTeX is balanced, where the example asks for it (tag `format:latex`): the mean of its checks.

    `braces`, `environments` (\begin), `delimiters` ($, $$, \(, \[) and `fences` (\left, \right) close in order.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_latex(c.answer) if _asked(c, "latex") else _not_asked("latex") for c in completions]


def _asked(completion: Completion, form: str) -> bool:
    return f"format:{form}" in completion.example.tags


def _not_asked(form: str) -> Score:
    return Score(None, f"the example does not ask for it (tag format:{form})")


def _checked(checks: Mapping[str, float | bool], why: str = "") -> Score:
    parts = {name: float(value) for name, value in checks.items()}
    failed = [name for name, value in parts.items() if value < 1]
    return Score(sum(parts.values()) / len(parts), why or ", ".join(failed), parts)


def _table(answer: str) -> Score:
    found = tables(answer)
    if not found:
        return Score(0.0, "no table")
    rows = [width == t.header for t in found for width in t.rows]
    return _checked(
        {
            "delimiter": all(t.header == t.delimiter for t in found),
            "rows": all(t.rows for t in found),
            "cells": sum(rows) / len(rows) if rows else 0.0,
        }
    )


def _markdown(answer: str) -> Score:
    found = markdown(answer)
    return _checked(found._asdict()) if found.structure else Score(0.0, "no Markdown structure")


def _steps(answer: str) -> Score:
    found = steps(answer)
    if len(found) < 2:
        return Score(0.0, "fewer than two numbered steps", {"steps": float(len(found))})
    right = [b == a + 1 for a, b in zip([0, *found], found, strict=False)]
    why = "" if all(right) else f"step {found[right.index(False)]} is at place {right.index(False) + 1}"
    return Score(sum(right) / len(right), why, {"steps": float(len(found))})


def _latex(answer: str) -> Score:
    found = latex(answer)
    checks = {name: whole for name, whole in found._asdict().items() if name != "formula"}
    return _checked(checks) if found.formula else Score(0.0, "no LaTeX")


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json_score(answer: str, validator: Any) -> Score:
    found, only, problem = _read(answer)
    if problem:
        hidden = visible(answer) != answer and not _read(visible(answer))[2]
        why = "JSON only without its invisible characters" if hidden else problem
        return Score(0.0, why, {"parses": 0.0, "only": 0.0, "valid": 0.0 if validator else None})
    checks = {"parses": True, "only": only}
    if validator is None:
        score = _checked(checks)
        return Score(score.value, score.why, {**score.parts, "valid": None})
    error = _violation(validator, found)
    return _checked({**checks, "valid": not error}, error)


def _read(answer: str) -> tuple[Any, bool, str]:
    """What the JSON in an answer says, whether the answer is nothing else, and why there is none ("" where there is)."""
    text = answer.strip()
    fences = fenced(text, _JSON)
    alone = len(fences) == 1 and text.startswith("```") and text.endswith("```") and text.count("```") == 2
    cut = text[
        min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=0) : max(text.rfind("}"), text.rfind("]")) + 1
    ]
    problems = []
    for candidate, only in ((fences[0], alone) if fences else (text, True), (cut, False)):
        try:
            return json.loads(candidate, parse_int=_integer, parse_constant=_no_constant), only, ""
        except RecursionError:
            problems.append("JSON nested too deep")
        except ValueError as error:
            problems.append(f"no JSON: {error}" if text else "no answer")
    return None, False, problems[0]


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _LONG_INTEGER else float(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    return importlib.import_module("jsonschema_rs").validator_for(schema, offline=True)


def _violation(validator: Any, found: Any) -> str:
    """The first violation, "" for none."""
    try:
        error = next(validator.iter_errors(found), None)
    except UnicodeEncodeError:
        return "a string holds a lone surrogate, which JSON cannot carry"
    except (RecursionError, OverflowError, ValueError) as problem:
        return f"cannot be checked: {type(problem).__name__}"
    if error is None:
        return ""
    return f"{error.message.splitlines()[0][:120]} at /{'/'.join(map(str, error.instance_path))}"
