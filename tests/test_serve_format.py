"""The format filter: what fits, what it says of what does not, and that a hostile schema costs nothing."""

import json
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from bounded import allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import DataError
from temper.serve.filters.format import MOST_DEPTH, Format, asked, checked, target, violated
from temper.serve.policy import Output
from temper.serve.verdict import Action, Channel, View, canary_turn

ORDER = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 1},
        "size": {"enum": ["small", "large"]},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
    },
    "required": ["count"],
    "additionalProperties": False,
}
TWICE = {
    "$ref": "#/$defs/n",
    "$defs": {
        "n": {
            "anyOf": [{"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": [name]} for name in ("x", "y")]
        }
    },
}
"""Each level of an answer has two ways to fail, so a list of all errors doubles with every level."""


def judged(answer: str, schema: Any = ORDER, *, final: bool = True) -> list[str]:
    view = View(Channel.CONTENT, answer, canary_turn(schema=schema), final=final)
    return [f.why for f in Format()(view)]


def test_it_fires_on_what_is_planted_and_asks_again() -> None:
    planted = Format().canary(Channel.CONTENT)
    (found,) = Format()(View(Channel.CONTENT, planted.text, planted.turn))
    assert (found.rule, found.action, Format.default_action) == ("json", None, Action.REWRITE)


def test_an_answer_that_fits_and_one_without_schema_pass() -> None:
    assert judged('{"count": 2, "size": "small"}') == []
    assert judged("just words", schema=None) == []


def test_nothing_is_judged_before_the_end() -> None:
    assert judged('{"count"', final=False) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("{}", 'required: at $ (wanted "count")'),
        ('{"count": "two"}', 'type: at $.count (wanted "integer")'),
        ('{"count": 0}', "minimum: at $.count (wanted 1)"),
        ('{"count": 1, "size": "vast"}', 'enum: at $.size (wanted ["small", "large"])'),
        ('{"count": 1, "lines": [{}, {"price": "x"}]}', 'type: at $.lines[1].price (wanted "number")'),
        ('{"count": 1, "more": 2}', "additionalProperties: at $"),
        ('```json\n{"count": 1}\n```', "not JSON from line 1, column 1"),
        ('{"count": 1} thanks', "not JSON from line 1, column 14"),
        ('{"count": NaN}', "do not agree on"),
        ('{"count": 1, "count": 2}', "do not agree on"),
        ('{"count": ' + "9" * 5000 + "}", "do not agree on"),
        ("[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2), "nested deeper than"),
        ("[" * 100_000, "json:"),
        ("1" * 1_048_577, "length:"),
    ],
)
def test_a_violation_says_where_and_by_what(answer: str, said: str) -> None:
    (why,) = judged(answer)
    assert said in why


def test_no_word_of_the_answer_is_repeated() -> None:
    secret = "hunter2"
    schema = {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}}}
    for answer in (f'{{"{secret}": {{"{secret}": "{secret}"}}}}', f'{{"count": "{secret}", "{secret}": 1}}', f'["{secret}"]'):
        assert judged(answer, schema)
        assert secret not in "".join([*judged(answer), *judged(answer, schema)])


def test_no_more_violations_are_told_than_wanted() -> None:
    schema = {"type": "array", "items": {"type": "number"}}
    answer = json.dumps(["x"] * 50)
    (found,) = Format(violations=2)(View(Channel.CONTENT, answer, canary_turn(schema=schema)))
    assert found.why.count("wanted") == 2


def test_response_format_becomes_a_schema() -> None:
    assert asked(None) is None
    assert asked({"type": "text"}) is None
    assert asked({"type": "json_object"}) == {"type": "object"}
    assert asked({"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER}}) == ORDER


@pytest.mark.parametrize(
    ("given_format", "said"),
    [
        ({"type": "yaml"}, "response_format.type"),
        ("json", "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": []}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "hunter2"}}}, "not a JSON Schema (type)"),
    ],
)
def test_a_wrong_response_format_is_named_and_not_quoted(given_format: Any, said: str) -> None:
    with pytest.raises(DataError) as error:
        asked(given_format)
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def test_the_policys_schema_holds_where_a_request_brings_none(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps(ORDER))
    output = Output(format="schema", schema=str(file))
    assert target(None, output) == ORDER
    assert target({"type": "json_object"}, output) == {"type": "object"}
    assert target(None, Output(format="json")) == {}
    assert target({"type": "text"}, Output()) is None


@pytest.mark.parametrize("content", ["[]", "{", '{"$ref": "http://x"}', None])
def test_a_policys_schema_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "order.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match="schema"):
        target(None, Output(format="schema", schema=str(file)))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "http://example.com/schema.json"}, "$ref"),
        ({"$ref": "file:///etc/passwd"}, "$ref"),
        ({"items": {"$ref": "other.json#/a"}}, "$ref"),
        ({"$ref": "#/$defs/none"}, "not a JSON Schema"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"pattern": "(?=a)b"}, "not a JSON Schema (pattern)"),
        ({"pattern": "(a)\\1"}, "not a JSON Schema (pattern)"),
        ({"properties": {"a": {"pattern": "((a{500}){500}){500}"}}}, "not a JSON Schema (pattern)"),
        ({"enum": ["x" * 70_000]}, "bytes"),
        ({"enum": list(range(6000))}, "values"),
        (nested(40), "nested"),
        (nested(5000), "nested"),
        ({"maximum": float("inf")}, "not JSON"),
    ],
)
def test_a_hostile_schema_is_refused_before_it_works(schema: dict[str, Any], said: str) -> None:
    begun = time.thread_time()
    with pytest.raises(DataError) as error:
        checked(schema)
    assert said in str(error.value)
    assert time.thread_time() - begun < allowed(1)


def test_a_pattern_is_matched_in_linear_time() -> None:
    begun = time.thread_time()
    assert list(violated({"pattern": "^(a+)+$"}, json.dumps("a" * 100_000 + "!")))
    assert time.thread_time() - begun < allowed(1)


def test_a_schema_that_branches_at_every_level_is_decided_without_listing_its_branches() -> None:
    begun = time.thread_time()
    for depth, said in ((3, "anyOf: at $"), (16, "schema: does not fit"), (28, "schema: branches too often")):
        found = list(violated(checked(TWICE), '{"a":' * depth + "{}" + "}" * depth))
        assert found[0].startswith(said)
    assert time.thread_time() - begun < allowed(2)


@pytest.mark.parametrize("last", [{"type": "string"}, {"$ref": "#"}])
def test_references_that_double_or_turn_on_the_spot_are_refused(last: dict[str, Any]) -> None:
    chain: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    begun = time.thread_time()
    with pytest.raises(DataError, match="branches too often"):
        checked({"$ref": "#/$defs/d0", "$defs": {**chain, "d40": last}})
    assert time.thread_time() - begun < allowed(1)


def test_a_long_answer_is_judged_in_time() -> None:
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": ["array", "integer"], "items": {"$ref": "#/$defs/n"}}}}
    begun = time.thread_time()
    assert list(violated(tree, json.dumps([[n] for n in range(5000)]))) == []
    assert next(violated(tree, json.dumps([[n] for n in range(90_000)]))).startswith("schema: branches too often")
    assert time.thread_time() - begun < allowed(3)


def test_a_tree_may_refer_to_itself() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}}
    assert list(violated(checked(tree), '{"left": {"right": {"n": 1}}, "n": 2}')) == []
    assert list(violated(tree, '{"left": {"right": {"n": "x"}}}')) == ['type: at $.left.right.n (wanted "integer")']


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "count"]), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"type": "object"}, {"minimum": 2}, {"maxLength": 1}, {"required": ["a"]}]),
    lambda inner: (
        st.builds(lambda s: {"properties": {"a": s}}, inner)
        | st.builds(lambda s: {"items": s}, inner)
        | st.builds(lambda s, t: {"anyOf": [s, t]}, inner, inner)
        | st.builds(lambda s: {"not": s}, inner)
    ),
    max_leaves=5,
)


@given(schema=SCHEMAS, value=VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_called_broken_is_what_the_library_calls_broken(schema: dict[str, Any], value: Any) -> None:
    fits = jsonschema_rs.is_valid(schema, value)
    assert fits == (not list(violated(schema, json.dumps(value))))
