"""Calls of tools that a model wrote as text, in the forms that models are taught; nothing is ever run.

JSON with a name and arguments (bare, in a fence, in `<tool_call>` tags as Qwen and Hermes write it, or OpenAI's nested form),
`<function=NAME>` (Llama 3.1), DeepSeek's `tool▁sep` marks, ReAct's `Action:` lines, and a Python call that begins a line.
Leaves out whether a call would have worked: the arguments are not checked.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

READ = 20_000
"""So many characters are searched."""
TRIED = 200
"""So many opening braces are tried as the beginning of an object: a wall of them would cost the square of its length."""
_NAMED = ("name", "tool", "tool_name", "function", "action")
_GIVEN = frozenset({"arguments", "parameters", "args", "input", "tool_input", "action_input"})
_TAGGED = re.compile(
    r"<function=([\w.-]+)>|<invoke name=\"([\w.-]+)\">|tool[▁_]sep[｜|]>\s*([\w.-]+)|^[ \t]*Action:[ \t]*([\w.-]+)[ \t]*$",
    re.MULTILINE,
)
_BEGINS = r"^[ \t]*(?:[-*>\[`]|\d+\.|print\(|await |result = |response = )*[ \t]*"
_DECODER = json.JSONDecoder()


def calls(text: str, tools: Collection[str]) -> list[str]:
    """The names of the tools called, in the order of the forms above; only names among `tools` count, each as often as called."""
    read = text[:READ]
    tagged = [next(name for name in found.groups() if name) for found in _TAGGED.finditer(read)]
    found = [*(name for value in _objects(read) if (name := _called(value))), *tagged, *_python(read, tools)]
    return [name for name in found if name in tools]


def offered(text: str) -> list[str]:
    """The names of the tools that a system prompt lists as JSON objects with a name and a description, in order."""
    return [str(value["name"]) for value in _objects(text) if "name" in value and "description" in value]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that is in no other; text that is no JSON is passed over."""
    at = text.find("{")
    for _ in range(TRIED):
        if at == -1:
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _called(value: dict[str, Any]) -> str:
    inner = value.get("function")
    if isinstance(inner, dict):
        return _called(inner)
    name = next((value[key] for key in _NAMED if isinstance(value.get(key), str)), "")
    return name if name and _GIVEN & value.keys() else ""


def _python(text: str, tools: Collection[str]) -> list[str]:
    if not tools:
        return []
    names = "|".join(map(re.escape, sorted(tools, key=len, reverse=True)))
    return re.findall(rf"{_BEGINS}({names})\(", text, re.MULTILINE)
