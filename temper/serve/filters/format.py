"""Whether an answer fits its JSON schema, judged once, when the answer is whole; the thought before it is never read.

Says where an answer does not fit, and by which keyword, in the schema's words and never in the answer's. A schema comes with a
request, so it may be hostile: `checked` bounds it before anything is compiled. Leaves out asking again, which the gateway does.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from temper.errors import DataError
from temper.serve.policy import Output
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn

MOST_BYTES, MOST_DEPTH, MOST_NODES = 65_536, 32, 5_000
"""Of a schema: its length as JSON, how deep it nests, how many values it has."""
MOST_ANSWER = 1_048_576
"""Characters of an answer that are parsed."""
MOST_JUDGED, MOST_LISTED = 5_000_000, 10_000
"""Pairs of schema and value that a validator visits at most: to decide (0.1 s), and to list what does not fit, which costs a
thousand times more. References that double at every level reach any number, and jsonschema-rs has no limit of its own."""
MOST_COUNTED = 200_000
"""Pairs that are counted before a text counts as too much to judge."""
MOST_REGEX = 1_000_000
"""Bytes of a compiled pattern; the engine is Rust's `regex`, linear in the text: look-arounds and back-references are refused."""
REFUSED = frozenset({"$dynamicRef", "$recursiveRef", "$vocabulary", "unevaluatedProperties", "unevaluatedItems"})
"""Keywords whose cost has no bound that we know of."""
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref"})
_TABLES = frozenset({"dependentSchemas", "dependencies"})
_ITEMS = frozenset({"items", "contains", "additionalItems"})
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Format:
    """Judges the content against `turn.schema`; without one it says nothing. `violations` is how many are told at most."""

    name: ClassVar[str] = "format"
    pace: ClassVar[Pace] = "final"
    heavy: ClassVar[bool] = True
    reach: ClassVar[int] = 0
    default_channels: ClassVar[tuple[Channel, ...]] = (Channel.CONTENT,)
    default_action: ClassVar[Action] = Action.REWRITE

    violations: int = 5

    def __call__(self, view: View, /) -> Sequence[Finding]:
        schema = view.turn.schema
        if schema is None or not view.final:
            return ()
        broken = list(islice(violated(schema, view.text), max(1, self.violations)))
        if not broken:
            return ()
        why = "the answer does not fit the JSON schema: " + "; ".join(broken)
        return (Finding(self.name, broken[0].partition(":")[0], "format", why=why),)

    def canary(self, channel: Channel, /) -> Canary:
        return Canary("planted, and no JSON", canary_turn(schema={"type": "object", "required": ["canary"]}))


def asked(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The schema a request's `response_format` stands for, None for free text. Raises `DataError` for one that is wrong."""
    if response_format is None:
        return None
    kind = response_format.get("type", "text") if isinstance(response_format, Mapping) else ""
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise DataError('response_format.type: wanted "text", "json_object" or "json_schema"')
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        raise DataError("response_format.json_schema.schema: wanted a JSON object")
    return checked(schema)


def target(response_format: Mapping[str, Any] | None, output: Output) -> Mapping[str, Any] | None:
    """What `Turn.schema` holds: the schema a request brings, else the policy's, None for free text.

    Raises `DataError` for a wrong one, the policy's file too: a gateway asks for `target(None, policy.output)` when it starts.
    """
    schema = asked(response_format)
    if schema is not None or output.format == "free":
        return schema
    return {} if output.format == "json" else _read(output.schema)


@lru_cache(maxsize=16)
def _read(file: str) -> Mapping[str, Any]:
    try:
        schema = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"output: schema = {file!r}: {error}; wanted a file with a JSON schema") from None
    if not isinstance(schema, Mapping):
        raise DataError(f"output: schema = {file!r}: wanted a JSON object")
    return checked(schema)


def checked(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, once it is known to be bounded, local and compilable. Raises `DataError`, which quotes nothing of it."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError, TypeError):
        raise DataError("schema: not JSON, or nested without end") from None
    if len(text) > MOST_BYTES:
        raise DataError(f"schema: {len(text)} bytes; at most {MOST_BYTES}")
    for nodes, (value, depth) in enumerate(_walked(schema)):
        if depth > MOST_DEPTH or nodes >= MOST_NODES:
            raise DataError(f"schema: nested deeper than {MOST_DEPTH}, or more than {MOST_NODES} values")
        if isinstance(value, Mapping):
            _local(value)
    _validator(_canonical(schema))
    if _work(schema, schema, None, {}) > MOST_JUDGED:
        raise DataError("schema: refers to itself without going deeper, or branches too often")
    return schema


def violated(schema: Mapping[str, Any], answer: str) -> Iterator[str]:
    """Each violation as "keyword: where (what is wanted)"; none where the answer fits."""
    if len(answer) > MOST_ANSWER:
        yield f"length: more than {MOST_ANSWER} characters of JSON"
        return
    try:
        value = json.loads(answer, parse_constant=_refused, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        yield f"json: not JSON from {at}; wanted JSON alone, without a fence or words around it"
        return
    except (ValueError, RecursionError):
        yield "json: a number, a repeated key or a nesting that JSON readers do not agree on"
        return
    if any(depth > MOST_DEPTH for _, depth in _walked(value)):
        yield f"depth: nested deeper than {MOST_DEPTH}"
        return
    work = _work(schema, schema, value, {})
    if work > MOST_JUDGED:
        yield "schema: branches too often for an answer of this size to be judged"
        return
    validator = _validator(_canonical(schema))
    if validator.is_valid(value):
        return
    if work > MOST_LISTED:
        yield "schema: does not fit; the schema branches too often to say where"
        return
    names = {key for held, _ in _walked(schema) if isinstance(held, Mapping) for key in held}
    for found in validator.iter_errors(value):
        yield f"{found.kind.name}: at {_place(found.instance_path, names)}{_wanted(schema, found)}"


def _walked(value: Any) -> Iterator[tuple[Any, int]]:
    """Every value within a value, with its depth, without recursion."""
    waiting = [(value, 0)]
    while waiting:
        held, depth = waiting.pop()
        yield held, depth
        if depth <= MOST_DEPTH:
            inner = held.values() if isinstance(held, Mapping) else held if isinstance(held, list) else ()
            waiting += [(v, depth + 1) for v in inner]


def _local(node: Mapping[str, Any]) -> None:
    for keyword in REFUSED & node.keys():
        raise DataError(f"schema: the keyword {keyword} is not taken")
    ref = node.get("$ref")
    if isinstance(ref, str) and not (ref == "#" or ref.startswith("#/")):
        raise DataError('schema: $ref; wanted a pointer into the schema itself, as in "#/$defs/item"')


def _canonical(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    rs = importlib.import_module("jsonschema_rs")
    try:
        options = rs.RegexOptions(size_limit=MOST_REGEX, dfa_size_limit=MOST_REGEX)
        return rs.validator_for(json.loads(schema), offline=True, pattern_options=options)
    except (rs.ValidationError, rs.ReferencingError, ValueError) as error:
        keyword = next((str(p) for p in reversed(getattr(error, "instance_path", ())) if p in _KNOWN), "")
        where = f" ({keyword})" if keyword else ""
        raise DataError(f"schema: not a JSON Schema{where}; patterns may have no look-around, references must be local") from None


_KNOWN = frozenset(
    {"type", "pattern", "patternProperties", "properties", "required", "items", "prefixItems", "enum", "multipleOf", "$ref"}
)
"""Keywords that a message may name: the others in a path may be the user's words."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a repeated key")
    return made


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _work(root: Mapping[str, Any], node: Any, value: Any, known: dict[tuple[int, int], float]) -> float:
    """How many pairs of schema and value a validator visits that remembers nothing; infinite for one that turns on the spot."""
    if not isinstance(node, Mapping):
        return 1
    key = (id(node), id(value))
    if len(known) > MOST_COUNTED:
        return float("inf")
    if key not in known:
        known[key] = float("inf")
        try:
            known[key] = 1 + sum(_work(root, inner, part, known) for inner, part in _visits(root, node, value))
        except RecursionError:
            return float("inf")
    return known[key]


def _visits(root: Mapping[str, Any], node: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """The schemas within a schema, each with the value it is put to: the same one, or a part of it."""
    for keyword in _IN_PLACE & node.keys():
        held = _resolved(root, node[keyword]) if keyword == "$ref" else node[keyword]
        yield from ((inner, value) for inner in (held if isinstance(held, list) else [held]))
    for keyword in _TABLES & node.keys():
        yield from ((inner, value) for inner in _table(node, keyword).values())
    if isinstance(value, Mapping):
        known = _table(node, "properties")
        others = [node["additionalProperties"]] if "additionalProperties" in node else []
        others += _table(node, "patternProperties").values()
        for key, part in value.items():
            yield from ((inner, part) for inner in (known.get(key, True), *others))
    elif isinstance(value, list):
        every = [node[keyword] for keyword in _ITEMS & node.keys()]
        first = node.get("prefixItems")
        yield from zip(first if isinstance(first, list) else (), value, strict=False)
        yield from ((inner, part) for part in value for inner in every)


def _table(node: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    held = node.get(keyword)
    return held if isinstance(held, Mapping) else {}


def _resolved(root: Mapping[str, Any], ref: Any) -> Any:
    at: Any = root
    for part in ref.split("/")[1:] if isinstance(ref, str) else ():
        part = part.replace("~1", "/").replace("~0", "~")
        at = at.get(part) if isinstance(at, Mapping) else at[int(part)] if isinstance(at, list) and part.isdigit() else None
    return at if isinstance(ref, str) else None


def _place(path: Sequence[str | int], names: set[str]) -> str:
    """A path into the answer, in which a key that the schema does not know is a star."""
    return "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p[:40]}" if p in names else ".*" for p in path[:16])


def _wanted(schema: Mapping[str, Any], found: Any) -> str:
    at: Any = schema
    for part in found.schema_path:
        at = at.get(part) if isinstance(at, Mapping) else at[part] if isinstance(at, list) and isinstance(part, int) else None
    if found.kind.name == "required":
        at = found.kind.as_dict().get("property", at)
    if at is None or any(isinstance(part, Mapping | bool) for part in (at, *(at if isinstance(at, list) else ()))):
        return ""
    told = json.dumps(at, ensure_ascii=False)
    return f" (wanted {told if len(told) <= _SHOWN else told[:_SHOWN] + '…'})"
