"""OpenAI's wire format, both ways: a body of bytes -> what was asked, and the answers, frames and errors the gateway writes.

Nothing is relayed. Of a request only the fields named here go on to the model server, and every text among them that the model
will read is listed, so that it is scanned; an answer is written field by field.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from temper.serve.verdict import Channel, Verdict
from temper.types import Example, Message

DEPTH: Final = 64
"""How deep JSON inside a request may be nested: tool parameters and answer schemas."""
CHOICES: Final = 16
PROMPTS: Final = 64
MOST_TOKENS: Final = 10**9
"""Of one answer: a model server may say anything, and JSON as it is written here ends at 2**64."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_FINISHES = ("stop", "length", "tool_calls", "content_filter")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_NUMBERS: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 10),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1_000_000),
    "min_p": (float, 0, 1),
    "frequency_penalty": (float, -10, 10),
    "presence_penalty": (float, -10, 10),
    "repetition_penalty": (float, 0, 10),
    "seed": (int, -(2**63), 2**63 - 1),
}
# the model would read these, or they change what it reads, and no filter could say what it was
_REFUSED: Mapping[str, str] = {
    "audio": "audio cannot be scanned",
    "prediction": "a predicted answer is not supported",
    "suffix": "text behind the answer is not supported",
    "documents": "put documents into a message, where they are scanned",
    "chat_template": "the model server's own template is used",
    "web_search_options": "searches by the model server cannot be scanned",
    "prompt_embeds": "embeddings cannot be scanned",
    "echo": "the prompt is not repeated",
}


class ApiError(Exception):
    """An answer in the shape of OpenAI's errors. The message never quotes the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        return orjson.dumps(error_object(self.message, self.kind, self.param, self.code))


def error_object(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The object of OpenAI's errors, all four keys present."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def overloaded(message: str, retry_after_s: float, *, status: int = 503, code: str = "overloaded") -> ApiError:
    """A refusal to be tried again later: 503, or 429 where it is the caller's own limit."""
    wait = str(max(1, round(retry_after_s)))
    kind = "rate_limit_error" if status == 429 else "server_error"
    return ApiError(status, message, kind=kind, code=code, headers={"Retry-After": wait})


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request as the gateway understood it.

    `body` goes to the model server; its texts are those of `pieces` (holder, key): a redaction is written back there. `rest` is
    all other text the model will read (names, tool definitions, the schema of the answer), which is scanned as one.
    `prompts` are those of a legacy completion, `None` for a chat. `lint` is the field `temper.lint`.
    """

    model: str
    body: dict[str, Any]
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    pieces: list[tuple[Any, str | int]] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()
    results: bool = False
    functions: bool = False
    format: Literal["", "json", "schema"] = ""
    schema: Mapping[str, Any] | None = None
    moderated: bool = False
    lint: object = None
    logprobs: bool = False
    prompts: list[str] | None = None

    def example(self, id: str) -> Example:
        """What was asked, as the row of data it may become; results of tools are left out of it."""
        return Example(id, self.messages)

    @property
    def system(self) -> str:
        return "\n".join(m.content for m in self.messages if m.role == "system")


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises `ApiError` 400."""
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ApiError(400, "the body is not JSON (or it is nested too deeply)") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body is not a JSON object")
    return given


def parse_chat(raw: bytes, *, max_tokens: int = 0, logprobs: bool = False) -> Asked:
    """A chat request. Raises `ApiError` 400 naming the field that is wrong."""
    given = parse_json(raw)
    asked = _common(given, max_tokens)
    if not isinstance(given.get("moderation"), dict | None):
        raise _wrong("moderation", "an object")
    asked.moderated = given.get("moderation") is not None
    if (own := given.get("temper")) is not None:
        if not isinstance(own, dict):
            raise _wrong("temper", "an object")
        asked.lint = own.get("lint")
    _messages(given.get("messages"), asked)
    _tools(given, asked)
    _format(given.get("response_format"), asked)
    _thinking(given.get("chat_template_kwargs"), asked)
    if (effort := given.get("reasoning_effort")) is not None:
        if effort not in _EFFORTS:
            raise _wrong("reasoning_effort", f"one of {', '.join(_EFFORTS)}")
        asked.body["reasoning_effort"] = effort
    modalities = given.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise _wrong("modalities", 'only ["text"]: nothing else can be scanned')
    if logprobs and _flag(given, "logprobs"):
        asked.logprobs = asked.body["logprobs"] = True
    return asked


def parse_completion(raw: bytes, *, max_tokens: int = 0) -> Asked:
    """A legacy completion of one prompt or several. Raises `ApiError` 400."""
    given = parse_json(raw)
    asked = _common(given, max_tokens)
    prompt = given.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not 0 < len(prompts) <= PROMPTS or not all(isinstance(p, str) for p in prompts):
        raise _wrong("prompt", f"a string or a list of at most {PROMPTS} strings; tokens cannot be scanned")
    if (best := given.get("best_of")) is not None and best != asked.n:
        raise _wrong("best_of", "no more than n")
    asked.prompts = list(prompts)
    asked.pieces = [(asked.prompts, i) for i in range(len(prompts))]
    asked.messages = (Message("user", "\n".join(prompts)),)
    return asked


def _common(given: Mapping[str, Any], max_tokens: int) -> Asked:
    for name, why in _REFUSED.items():
        if given.get(name):
            raise ApiError(400, f"{name}: {why}", param=name)
    model = given.get("model")
    if not isinstance(model, str) or not model or len(model) > 200:
        raise _wrong("model", "the name of a model")
    body: dict[str, Any] = {"model": model}
    for name, (kind, low, high) in _NUMBERS.items():
        if given.get(name) is not None:
            body[name] = _number(given, name, kind, low, high)
    asked = Asked(model=model, body=body, stream=_flag(given, "stream"))
    if given.get("n") is not None:
        asked.n = body["n"] = int(_number(given, "n", int, 1, CHOICES))
    _stop(given.get("stop"), body)
    _bias(given.get("logit_bias"), body)
    _cap(given, body, max_tokens)
    options = given.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object")
    asked.include_usage = bool(options and _flag(options, "include_usage"))
    return asked


def _stop(stop: object, body: dict[str, Any]) -> None:
    if stop is None:
        return
    listed = [stop] if isinstance(stop, str) else stop
    if not isinstance(listed, list) or len(listed) > 16 or not all(isinstance(s, str) and 0 < len(s) <= 1024 for s in listed):
        raise _wrong("stop", "a string or a list of at most 16 strings")
    body["stop"] = listed


def _bias(bias: object, body: dict[str, Any]) -> None:
    if not bias:
        return
    fits = isinstance(bias, dict) and all(
        k.isascii() and k.isdigit() and isinstance(v, int | float) and not isinstance(v, bool) for k, v in bias.items()
    )
    if not fits:
        raise _wrong("logit_bias", "token ids with numbers")
    body["logit_bias"] = bias


def _cap(given: Mapping[str, Any], body: dict[str, Any], most: int) -> None:
    """The token cap under the name it came by, never above the policy's."""
    name = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    if given.get(name) is not None:
        wanted = int(_number(given, name, int, 1, 10_000_000))
        body[name] = min(wanted, most) if most else wanted
    elif most:
        body[name] = most


def _messages(given: object, asked: Asked) -> None:
    if not isinstance(given, list) or not given:
        raise _wrong("messages", "a list of messages, not empty")
    out: list[dict[str, Any]] = []
    known: list[Message] = []
    legacy = ""
    for i, row in enumerate(given):
        where = f"messages.{i}"
        if not isinstance(row, dict):
            raise _wrong(where, "an object")
        match row.get("role"):
            case "system" | "developer" | "user" as role:
                message = {"role": role, "content": _content(row, where)}
                _text(asked, message, "content")
                known.append(Message("user" if role == "user" else "system", message["content"]))
            case "assistant":
                message = _assistant(row, where, i, asked)
                legacy = f"call_{i}"
                known.append(Message("assistant", message.get("content") or ""))
            case "tool":
                message = {
                    "role": "tool",
                    "content": _content(row, where),
                    "tool_call_id": _name(row.get("tool_call_id"), f"{where}.tool_call_id"),
                }
                asked.rest.append(message["tool_call_id"])
                asked.results = True
                _text(asked, message, "content")
            case "function":
                message = {"role": "tool", "content": _content(row, where), "tool_call_id": legacy}
                asked.rest.append(_name(row.get("name"), f"{where}.name"))
                asked.results = True
                _text(asked, message, "content")
            case _:
                raise _wrong(f"{where}.role", "system, developer, user, assistant or tool")
        if row.get("name") is not None and row["role"] != "function":
            message["name"] = _name(row["name"], f"{where}.name")
            asked.rest.append(message["name"])
        out.append(message)
    asked.body["messages"] = out
    asked.messages = tuple(known)


def _assistant(row: Mapping[str, Any], where: str, i: int, asked: Asked) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    if row.get("audio") is not None:
        raise _wrong(f"{where}.audio", "none: audio cannot be scanned")
    refusal = row.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        raise _wrong(f"{where}.refusal", "a string")
    if row.get("content") is not None or refusal:
        message["content"] = _content(row, where) if row.get("content") else str(refusal or "")
        _text(asked, message, "content")
    thought = row.get("reasoning_content") or row.get("reasoning")
    if thought:
        if not isinstance(thought, str):
            raise _wrong(f"{where}.reasoning_content", "a string")
        # one text under both names: what was scanned and redacted under the one is copied to the other at the end
        message["reasoning_content"] = thought
        _text(asked, message, "reasoning_content")
    calls = row.get("tool_calls")
    if row.get("function_call") is not None:
        calls = [{"id": f"call_{i}", "type": "function", "function": row["function_call"]}]
    if calls is not None:
        message["tool_calls"] = _calls(calls, f"{where}.tool_calls", asked)
    if len(message) == 1:
        message["content"] = ""
    return message


def _calls(given: object, where: str, asked: Asked) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise _wrong(where, "a list of calls, not empty")
    made = []
    for i, call in enumerate(given):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("arguments", ""), str):
            raise _wrong(f"{where}.{i}", "a call of a function with its arguments as a string")
        name = _name(function.get("name"), f"{where}.{i}.function.name")
        id = _name(call.get("id"), f"{where}.{i}.id")
        inner = {"name": name, "arguments": function.get("arguments", "")}
        asked.rest += (name, id)
        _text(asked, inner, "arguments")
        made.append({"id": id, "type": "function", "function": inner})
    return made


def _content(row: Mapping[str, Any], where: str) -> str:
    """The text of a message; its parts are joined as the model will read them, so that nothing hides between two parts."""
    content = row.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise _wrong(f"{where}.content", "a string or a list of parts")
    texts = []
    for j, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in ("text", "refusal", "input_text") or not isinstance(text, str):
            raise ApiError(
                400,
                f"messages: content part {j}: only text can be scanned; images, audio and files are refused",
                param=f"{where}.content.{j}",
                code="unscannable_content",
            )
        texts.append(text)
    return "\n".join(texts)


def _text(asked: Asked, holder: dict[str, Any], key: str) -> None:
    if holder[key]:
        asked.pieces.append((holder, key))


def _tools(given: Mapping[str, Any], asked: Asked) -> None:
    tools, choice = given.get("tools"), given.get("tool_choice")
    if given.get("functions") is not None:
        if not isinstance(given["functions"], list):
            raise _wrong("functions", "a list")
        asked.functions = True
        tools = [{"type": "function", "function": f} for f in given["functions"]]
        choice = given.get("function_call")
        choice = {"type": "function", "function": choice} if isinstance(choice, dict) else choice
    if not tools:
        return
    if not isinstance(tools, list) or len(tools) > 256:
        raise _wrong("tools", "a list of at most 256 tools")
    made = [_tool(tool, f"tools.{i}", asked) for i, tool in enumerate(tools)]
    asked.body["tools"] = made
    asked.tools = tuple(t["function"]["name"] for t in made)
    if choice is not None:
        asked.body["tool_choice"] = _choice(choice, asked.tools)
    if given.get("parallel_tool_calls") is not None:
        asked.body["parallel_tool_calls"] = _flag(given, "parallel_tool_calls")


def _tool(tool: object, where: str, asked: Asked) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise _wrong(where, 'a tool of type "function"')
    made: dict[str, Any] = {"name": _name(function.get("name"), f"{where}.function.name")}
    asked.rest.append(made["name"])
    if (about := function.get("description")) is not None:
        if not isinstance(about, str):
            raise _wrong(f"{where}.function.description", "a string")
        made["description"] = about
        asked.rest.append(about)
    if (parameters := function.get("parameters")) is not None:
        if not isinstance(parameters, dict):
            raise _wrong(f"{where}.function.parameters", "a JSON schema")
        asked.rest += strings(parameters, f"{where}.function.parameters")
        made["parameters"] = parameters
    if function.get("strict") is not None:
        made["strict"] = _flag(function, "strict")
    return {"type": "function", "function": made}


def _choice(choice: object, tools: Sequence[str]) -> object:
    if choice in ("none", "auto", "required"):
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and function.get("name") in tools:
        return {"type": "function", "function": {"name": function["name"]}}
    raise _wrong("tool_choice", "none, auto, required or one of the tools")


def _format(given: object, asked: Asked) -> None:
    if given is None:
        return
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("text", "json_object", "json_schema"):
        raise _wrong("response_format", "type text, json_object or json_schema")
    if kind == "text":
        return
    if kind == "json_object":
        asked.format, asked.body["response_format"] = "json", {"type": "json_object"}
        return
    inner = given.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(schema, dict):
        raise _wrong("response_format.json_schema", "an object with a schema")
    made: dict[str, Any] = {"name": _name(inner.get("name", "answer"), "response_format.json_schema.name"), "schema": schema}
    if isinstance(inner.get("description"), str):
        made["description"] = inner["description"]
        asked.rest.append(inner["description"])
    if inner.get("strict") is not None:
        made["strict"] = _flag(inner, "strict")
    asked.rest += [made["name"], *strings(schema, "response_format.json_schema.schema")]
    asked.format, asked.schema = "schema", schema
    asked.body["response_format"] = {"type": "json_schema", "json_schema": made}


def _thinking(given: object, asked: Asked) -> None:
    """The one switch of chat templates that people use; whatever else a template could be told is dropped unread."""
    if isinstance(given, dict):
        kept = {k: v for k, v in given.items() if k in ("enable_thinking", "thinking") and isinstance(v, bool)}
        if kept:
            asked.body["chat_template_kwargs"] = kept


def strings(value: object, where: str, depth: int = 0) -> list[str]:
    """Every key and string in JSON. Raises `ApiError` 400 for what is nested deeper than `DEPTH`."""
    if depth > DEPTH:
        raise _wrong(where, f"at most {DEPTH} levels of nesting")
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [s for k, v in value.items() for s in (k, *strings(v, where, depth + 1))]
    if isinstance(value, list):
        return [s for v in value for s in strings(v, where, depth + 1)]
    return []


def _name(given: object, where: str) -> str:
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise _wrong(where, "1 to 128 letters, digits or _ . : -")
    return given


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return bool(value)


def _number(given: Mapping[str, Any], name: str, kind: type, low: float, high: float) -> float | int:
    value = given[name]
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (kind is int and not isinstance(value, int)):
        raise _wrong(name, f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}")
    return value  # type: ignore[no-any-return]


def _wrong(param: str, wanted: str) -> ApiError:
    return ApiError(400, f"{param}: wanted {wanted}", param=param)


def finish_of(given: object) -> str:
    """An upstream's finish reason as one of OpenAI's."""
    if given == "function_call":
        return "tool_calls"
    return str(given) if given in _FINISHES else "stop"


def usage_of(given: object) -> dict[str, Any] | None:
    """The counts of a usage object, None where there is none; anything that is not a count is dropped."""
    if not isinstance(given, dict):
        return None
    prompt, completion = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    made: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    for name, inner in (("completion_tokens_details", "reasoning_tokens"), ("prompt_tokens_details", "cached_tokens")):
        details = given.get(name)
        if isinstance(details, dict) and inner in details:
            made[name] = {inner: _count(details[inner])}
    return made


def _count(given: object) -> int:
    return min(given, MOST_TOKENS) if isinstance(given, int) and not isinstance(given, bool) and given > 0 else 0


def added(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Two usages together."""
    if one is None or other is None:
        return dict(one or other or {}) or None
    total: dict[str, Any] = {k: one[k] + other[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
    for name in ("completion_tokens_details", "prompt_tokens_details"):
        inner = [u[name] for u in (one, other) if name in u]
        if inner:
            total[name] = {k: sum(d.get(k, 0) for d in inner) for k in inner[0]}
    return total


def logprobs_of(given: object, text: str) -> dict[str, Any] | None:
    """Log-probabilities of exactly the text that was released, token by token; None where they speak of any other text.

    `top_logprobs` is empty: the tokens that were not chosen spell text that no filter has read.
    """
    rows = given.get("content") if isinstance(given, dict) else None
    if not isinstance(rows, list):
        return None
    kept = [row for row in map(_token, rows) if row is not None]
    if len(kept) != len(rows) or "".join(row["token"] for row in kept) != text:
        return None
    return {"content": kept, "refusal": None}


def _token(row: object) -> dict[str, Any] | None:
    if not isinstance(row, dict) or not isinstance(row.get("token"), str) or not isinstance(row.get("logprob"), int | float):
        return None
    return {"token": row["token"], "logprob": float(row["logprob"]), "bytes": list(row["token"].encode()), "top_logprobs": []}


def moderation(input: Verdict | None, output: Verdict | None, model: str) -> dict[str, Any]:
    """The verdicts in OpenAI's shape; a text that a broken filter could not read is an error there, as it is here."""
    return {"input": _moderated(input, model), "output": _moderated(output, model)}


def _moderated(verdict: Verdict | None, model: str) -> dict[str, Any]:
    if verdict is None:
        return {"type": "error", "code": "not_moderated", "message": "no output was made"}
    if verdict.errors:
        return {"type": "error", "code": "filter_failed", "message": f"filters that failed: {', '.join(verdict.errors)}"}
    return {
        "type": "moderation_results",
        "model": model,
        "results": [{"type": "moderation_result", "model": model, **result(verdict)}],
    }


def result(verdict: Verdict, known: Iterable[str] = ()) -> dict[str, Any]:
    """One moderation result: each category, whether it counts, its score and what it was read from."""
    counted = [f for f in verdict.findings if not f.shadow]
    flagged = {f.category or f.filter for f in counted if f.action}
    scores: dict[str, float] = dict.fromkeys(known, 0.0)
    for f in counted:
        name = f.category or f.filter
        scores[name] = max(scores.get(name, 0.0), 1.0 if f.score is None else f.score)
    return {
        "flagged": bool(flagged),
        "categories": {name: name in flagged for name in scores},
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in scores},
    }


class Wire:
    """The frames of one streamed answer. Head and tail of each are made once; only text is encoded anew."""

    def __init__(self, id: str, created: int, model: str, *, chat: bool = True, functions: bool = False) -> None:
        self.chat, self.functions = chat, functions
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        head = b'"id":%b,"object":"%b","created":%d,"model":%b' % (orjson.dumps(id), kind, created, orjson.dumps(model))
        self._open = b"data: {" + head + b',"choices":['
        self._plain = b"data: {" + head + b',"choices":[]'
        self._begun: set[int] = set()
        self._calls: set[tuple[int, int]] = set()

    def text(self, choice: int, channel: Channel, text: str, call: int | None = None, name: str = "", call_id: str = "") -> bytes:
        """Released text as one frame; the first of a choice says who speaks, the first of a call which function."""
        if not self.chat:
            return self._completion(choice, channel, text)
        role = b""
        if choice not in self._begun:
            self._begun.add(choice)
            role = b'"role":"assistant",'
        if channel is Channel.CONTENT:
            inner = b'"content":%b' % orjson.dumps(text)
        elif channel is Channel.REASONING:
            said = orjson.dumps(text)
            inner = b'"reasoning_content":%b,"reasoning":%b' % (said, said)
        else:
            inner = self._call(choice, call or 0, name, call_id, text)
        return b'%b{"index":%d,"delta":{%b%b},"logprobs":null,"finish_reason":null}]}\n\n' % (self._open, choice, role, inner)

    def _call(self, choice: int, call: int, name: str, call_id: str, text: str) -> bytes:
        said = orjson.dumps(text)
        first = (choice, call) not in self._calls
        self._calls.add((choice, call))
        if self.functions:
            named = b'"name":%b,' % orjson.dumps(name) if first else b""
            return b'"function_call":{%b"arguments":%b}' % (named, said)
        if not first:
            return b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (call, said)
        return b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":%b}}]' % (
            call,
            orjson.dumps(call_id),
            orjson.dumps(name),
            said,
        )

    def _completion(self, choice: int, channel: Channel, text: str) -> bytes:
        said = orjson.dumps(text)
        inner = b'"text":%b' % said
        if channel is not Channel.CONTENT:
            inner = b'"text":"","reasoning_content":%b,"reasoning":%b' % (said, said)
        return b'%b{"index":%d,%b,"logprobs":null,"finish_reason":null}]}\n\n' % (self._open, choice, inner)

    def finish(self, choice: int, reason: str, refusal: str = "", extra: Mapping[str, Any] | None = None) -> bytes:
        """The frame that ends a choice, with the refusal in its delta if there is one; `extra` are fields beside `choices`."""
        told = orjson.dumps(self.reason(reason))
        more = b"" if not extra else b"," + orjson.dumps(extra)[1:-1]
        if not self.chat:
            inner = b'"text":"",%b"logprobs":null' % (b'"refusal":%b,' % orjson.dumps(refusal) if refusal else b"")
            return b'%b{"index":%d,%b,"finish_reason":%b}]%b}\n\n' % (self._open, choice, inner, told, more)
        role = b"" if choice in self._begun else b'"role":"assistant"'
        said = b"" if not refusal else (b"," if role else b"") + b'"refusal":' + orjson.dumps(refusal)
        self._begun.add(choice)
        delta = b'"delta":{%b%b},"logprobs":null' % (role, said)
        return b'%b{"index":%d,%b,"finish_reason":%b}]%b}\n\n' % (self._open, choice, delta, told, more)

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The last frame before the end, where it was asked for."""
        return self._plain + b',"usage":' + orjson.dumps(usage) + b"}\n\n"

    def reason(self, reason: str) -> str:
        return "function_call" if self.functions and reason == "tool_calls" else reason


DONE: Final = b"data: [DONE]\n\n"
ALIVE: Final = b": keep-alive\n\n"


def error_frame(error: ApiError) -> bytes:
    """An error in the middle of a stream, where the status line is long gone."""
    return b"data: " + error.body() + b"\n\n"


@dataclass(slots=True)
class Said:
    """What is released of one choice."""

    reasoning: str = ""
    content: str = ""
    calls: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # name, id, arguments

    def add(self, channel: Channel, text: str, call: int | None = None, name: str = "", call_id: str = "") -> None:
        if channel is Channel.REASONING:
            self.reasoning += text
        elif channel is Channel.CONTENT:
            self.content += text
        else:
            old = self.calls.get(call or 0, (name, call_id, ""))
            self.calls[call or 0] = (old[0] or name, old[1] or call_id, old[2] + text)


def chat_choice(
    index: int, said: Said, finish: str, *, refusal: str = "", functions: bool = False, logprobs: Any = None
) -> dict[str, Any]:
    """One choice of a plain chat answer."""
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": refusal or None}
    if said.reasoning:
        message["reasoning_content"] = message["reasoning"] = said.reasoning
    if said.calls:
        message["content"] = said.content or None
        inner = [(id, {"name": name, "arguments": text}) for _, (name, id, text) in sorted(said.calls.items())]
        if functions:
            message["function_call"] = inner[0][1]
            finish = "function_call" if finish == "tool_calls" else finish
        else:
            message["tool_calls"] = [{"id": id, "type": "function", "function": f} for id, f in inner]
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def text_choice(index: int, said: Said, finish: str, *, refusal: str = "") -> dict[str, Any]:
    """One choice of a plain legacy completion."""
    made: dict[str, Any] = {"index": index, "text": said.content, "logprobs": None, "finish_reason": finish}
    if said.reasoning:
        made["reasoning_content"] = made["reasoning"] = said.reasoning
    return made | ({"refusal": refusal} if refusal else {})
