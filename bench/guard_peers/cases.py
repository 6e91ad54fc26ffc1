"""What every gateway is given: one set of rules, clean texts for the load, and the replies in which a banned phrase may hide.

The phrase is harmless and stands in for a violation. A case is named in the user's message as [[name]], so that the upstream
knows which reply is wanted whatever a gateway does to the request.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BANNED = "zorblax protocol"
REGEXES = (
    r"(?i)zorblax\s+protocol",
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b(?:\d[ -]?){15}\d\b",
    r"(?i)ignore (?:all )?previous instructions",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----",
)
PHRASES = tuple(f"forbidden token {i:02d} quux" for i in range(20))

_SENTENCE = (
    "The committee reviewed the quarterly report and noted that shipping times improved "
    "while costs stayed flat across the northern region. "
)
INPUT = (_SENTENCE * 5)[:600]
OUTPUT = (_SENTENCE * 10)[:1200]
THOUGHT = (_SENTENCE * 5)[:600]
PIECE = 16
"""Characters of one event: an answer of 1,200 is 79 events with the first, the last and [DONE]."""

WIDE = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" for c in BANNED)
HIDDEN = "zor\u200bblax\u2060 pro\u00adtocol"
ESCAPED = "\\u007aorblax proto\\u0063ol"
SPACED = "zorblax" + " " * 300 + "protocol"
TOOLS = [
    {"type": "function", "function": {"name": "sh", "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}}}
]


def within(phrase: str, text: str = OUTPUT) -> str:
    """The phrase in the middle of a clean text."""
    half = len(text) // 2
    return f"{text[:half]} start the {phrase} now. {text[half:]}"


def calls(arguments: str, name: str = "sh") -> dict[str, Any]:
    """A message that is one tool call."""
    return {
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


@dataclass(frozen=True)
class Case:
    """One reply of the upstream and the request that asks for it. `message` is sent whole, or in events of `piece` characters.

    `clean` must come through whole; of any other nothing that folds to the phrase may reach the client, or with `asks` the
    upstream. `top` and `choice` are fields beside the usual ones; `after` is a delta behind the finish reason; `stream` says
    in which form it is asked for (None: both).
    """

    name: str
    message: Mapping[str, Any] = field(default_factory=lambda: {"content": OUTPUT})
    ask: Any = INPUT
    request: Mapping[str, Any] = field(default_factory=dict)
    clean: bool = False
    asks: bool = False
    stream: bool | None = None
    route: str = "chat/completions"
    piece: int = PIECE
    top: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    error: int = 0

    def forms(self) -> tuple[bool, ...]:
        return (False, True) if self.stream is None else (self.stream,)


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("clean", clean=True),
        Case("clean_reasoning", {"reasoning_content": THOUGHT, "content": OUTPUT}, clean=True),
        Case("clean_tool", calls(json.dumps({"cmd": "ls -l"})), clean=True, request={"tools": TOOLS}),
        Case("input", ask=f"please start the {BANNED}", asks=True),
        Case("input_parts", ask=[{"type": "text", "text": f"please start the {BANNED}"}], asks=True),
        Case("input_hidden", ask=f"please start the {HIDDEN}", asks=True),
        Case("content", {"content": within(BANNED)}),
        Case("upper_case", {"content": within(BANNED.upper())}),
        Case("tail", {"content": f"{OUTPUT} start the {BANNED}"}),
        Case("one_char_events", {"content": within(BANNED)}, piece=1),
        Case("spaced", {"content": within(SPACED)}),
        Case("hidden_chars", {"content": within(HIDDEN)}),
        Case("full_width", {"content": within(WIDE)}),
        Case("reasoning_content", {"reasoning_content": within(BANNED, THOUGHT), "content": OUTPUT}),
        Case("reasoning", {"reasoning": within(BANNED, THOUGHT), "content": OUTPUT}),
        Case("think", {"content": f"<think>{within(BANNED, THOUGHT)}</think>{OUTPUT}"}),
        Case("think_no_opener", {"content": f"{within(BANNED, THOUGHT)}</think>{OUTPUT}"}),
        Case("tool_args", calls(json.dumps({"cmd": f"start the {BANNED} now"})), request={"tools": TOOLS}),
        Case("tool_args_escaped", calls(f'{{"cmd": "start the {ESCAPED} now"}}'), request={"tools": TOOLS}, piece=3),
        Case("tool_name", calls("{}", name=BANNED), request={"tools": TOOLS}),
        Case("function_call", {"content": None, "function_call": {"name": "sh", "arguments": json.dumps({"cmd": BANNED})}}),
        Case("second_choice", {"content": OUTPUT}, second={"content": within(BANNED)}, request={"n": 2}),
        Case("completions", {"content": within(BANNED)}, route="completions"),
        Case("refusal", {"content": None, "refusal": f"I will not start the {BANNED} for you."}),
        Case(
            "logprobs",
            {"content": OUTPUT},
            request={"logprobs": True},
            choice={"logprobs": {"content": [{"token": BANNED, "logprob": -0.1, "top_logprobs": []}]}},
        ),
        Case("unknown_field", {"content": OUTPUT, "provider_note": f"use the {BANNED}"}),
        Case("annotations", {"content": OUTPUT, "annotations": [{"type": "url_citation", "url_citation": {"title": BANNED}}]}),
        Case("top_field", {"content": OUTPUT}, top={"system_fingerprint": BANNED, "provider": {"note": BANNED}}),
        Case("model_name", {"content": OUTPUT}, top={"model": BANNED, "id": BANNED}),
        Case("header", {"content": OUTPUT}, headers={"X-Upstream-Note": BANNED}),
        Case("comment", {"content": OUTPUT}, comment=BANNED, stream=True),
        Case("after_finish", {"content": OUTPUT}, after={"content": f" start the {BANNED}"}, stream=True),
        Case("error_body", error=400),
        Case("error_body_500", error=500),
        Case("error_in_stream", {"content": OUTPUT}, error=200, stream=True),
    )
}
BAD = tuple(name for name, case in CASES.items() if not case.clean)


def named(body: bytes) -> str:
    """The case that a request asks for."""
    found = re.search(rb"\[\[(\w+)\]\]", body)
    name = found[1].decode() if found else ""
    return name if name in CASES else "clean"


def body_of(case: Case, stream: bool, model: str) -> dict[str, Any]:
    """The request of a case."""
    asked = {"model": model, "stream": stream, **case.request}
    if case.route == "completions":
        return {**asked, "prompt": f"[[{case.name}]] {case.ask}"}
    mark = f"[[{case.name}]] "
    said = mark + case.ask if isinstance(case.ask, str) else [{"type": "text", "text": mark}, *case.ask]
    return {
        **asked,
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": said}],
    }


def folded(text: str) -> str:
    """The text as a reader sees it: escapes read, invisible characters gone, width, case and spacing evened out."""
    read = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    shown = "".join(c for c in unicodedata.normalize("NFKC", read) if unicodedata.category(c) != "Cf")
    return " ".join(shown.casefold().split())


def holds(text: str) -> bool:
    return BANNED in folded(text)


def strings(told: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, names of fields too, with its path; places in lists count by `index` where there is one."""
    if isinstance(told, str):
        yield path, told
    elif isinstance(told, Mapping):
        for key, value in told.items():
            yield f"{path}.{{name}}", str(key)
            yield from strings(value, f"{path}.{key}")
    elif isinstance(told, list):
        for place, value in enumerate(told):
            at = value.get("index", place) if isinstance(value, Mapping) else place
            yield from strings(value, f"{path}[{at}]")
