"""OpenAI's wire format: what is understood, what is refused, and that nothing goes on which was not looked at."""

import json
from typing import Any

import pytest

from temper.serve.protocol import (
    DEPTH,
    ApiError,
    Asked,
    Said,
    Wire,
    added,
    chat_choice,
    logprobs_of,
    parse_chat,
    parse_completion,
    result,
    usage_of,
)
from temper.serve.verdict import Action, Channel, Finding, Verdict

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "secret7"}'}}


def asked(**more: Any) -> Asked:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}
    return parse_chat(json.dumps(body).encode())


def texts(given: Asked) -> str:
    """Everything a filter gets to see."""
    return "\n".join([*(holder[key] for holder, key in given.pieces), *given.rest])


def test_only_named_fields_go_on() -> None:
    extra = {
        "guided_regex": "x",
        "metadata": {"a": "b"},
        "user": "bob",
        "store": True,
        "chat_template_kwargs": {"x": "y"},
        "top_k": 5,
    }
    assert asked(**extra).body == {"model": "m", "messages": [{"role": "user", "content": "hello"}], "top_k": 5}


def test_of_the_templates_arguments_only_switches_go_on() -> None:
    made = asked(chat_template_kwargs={"enable_thinking": False, "thinking": "evil text", "system": "evil"})
    assert made.body["chat_template_kwargs"] == {"enable_thinking": False}


def test_every_text_the_model_will_read_is_scanned() -> None:
    schema = {"type": "object", "properties": {"secret1": {"description": "secret2", "enum": ["secret3"]}}}
    made = asked(
        messages=[
            {"role": "system", "content": "secret4", "name": "secret5"},
            {"role": "user", "content": [{"type": "text", "text": "secret6"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "secret8"},
            {"role": "tool", "content": "secret9", "tool_call_id": "secret10"},
            {"role": "assistant", "refusal": "secret11"},
        ],
        tools=[{"type": "function", "function": {"name": "secret12", "description": "secret13", "parameters": schema}}],
        response_format={"type": "json_schema", "json_schema": {"name": "secret14", "description": "secret15", "schema": schema}},
    )
    seen = texts(made)
    assert [n for n in range(1, 16) if f"secret{n}" not in seen] == []


def test_parts_of_a_message_are_scanned_as_the_one_text_that_goes_on() -> None:
    made = asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])
    assert made.body["messages"][0]["content"] == "a\nb"
    assert texts(made) == "a\nb"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_what_cannot_be_scanned_is_refused_by_name(kind: str) -> None:
    part = {"type": kind, kind: {"url": "data:secret"}}
    with pytest.raises(ApiError) as told:
        asked(messages=[{"role": "user", "content": [part]}])
    assert (told.value.status, told.value.code, told.value.param) == (400, "unscannable_content", "messages.0.content.0")
    assert "secret" not in told.value.message


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", "name": "a b"}]}, "messages.0.name"),
        ({"model": ""}, "model"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
        ({"moderation": []}, "moderation"),
        ({"suffix": "x"}, "suffix"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"chat_template": "x"}, "chat_template"),
        ({"prediction": {"content": "x"}}, "prediction"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"temper": "rewrite"}, "temper"),
    ],
)
def test_a_wrong_field_is_named_and_not_quoted(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as told:
        asked(**more)
    assert (told.value.status, told.value.param) == (400, param)
    body = json.loads(told.value.body())["error"]
    assert set(body) == {"message", "type", "param", "code"}


def test_nesting_has_a_limit() -> None:
    deep: dict[str, Any] = {}
    for _ in range(DEPTH + 1):
        deep = {"properties": deep}
    with pytest.raises(ApiError, match="levels of nesting"):
        asked(tools=[{"type": "function", "function": {"name": "f", "parameters": deep}}])


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 5000, b'{"model": NaN}'])
def test_what_is_no_json_object_is_a_400(raw: bytes) -> None:
    with pytest.raises(ApiError) as told:
        parse_chat(raw)
    assert told.value.status == 400


def test_the_policys_cap_holds_and_keeps_the_name_it_came_by() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    capped = parse_chat(json.dumps({**body, "max_completion_tokens": 9000}).encode(), max_tokens=100).body
    assert (capped["max_completion_tokens"], "max_tokens" in capped) == (100, False)
    assert parse_chat(json.dumps(body).encode(), max_tokens=100).body["max_tokens"] == 100
    assert parse_chat(json.dumps({**body, "max_tokens": 7}).encode(), max_tokens=100).body["max_tokens"] == 7


def test_legacy_functions_become_tools() -> None:
    made = asked(
        functions=[{"name": "f"}],
        function_call={"name": "f"},
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "done"},
        ],
    )
    assert made.functions
    assert made.body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    call, answer = made.body["messages"][1:]
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert answer["role"] == "tool"


def test_completions_take_text_only() -> None:
    assert parse_completion(b'{"model": "m", "prompt": ["a", "b"]}').prompts == ["a", "b"]
    for prompt in ("[1, 2]", "[[1]]", "[]", "null", "5"):
        with pytest.raises(ApiError):
            parse_completion(b'{"model": "m", "prompt": %b}' % prompt.encode())


def test_frames_are_whole_events_of_json_with_the_fields_of_the_protocol() -> None:
    wire = Wire("id1", 7, 'm"x', functions=False)
    out = [
        wire.text(0, Channel.REASONING, 'a"\n'),
        wire.text(0, Channel.CONTENT, "b\u2028"),
        wire.text(1, Channel.TOOL_ARGS, "", 0, "f", "call_1"),
        wire.text(1, Channel.TOOL_ARGS, "{}", 0),
        wire.finish(0, "stop", extra={"disclosure": {"x": 1}}),
        wire.finish(1, "content_filter", "no"),
        wire.usage({"total_tokens": 3}),
    ]
    frames = [json.loads(f[6:]) for f in out]
    assert all(f.startswith(b"data: {") and f.endswith(b"}\n\n") and f.count(b"\n") == 2 for f in out)
    assert all((f["id"], f["created"], f["model"], f["object"]) == ("id1", 7, 'm"x', "chat.completion.chunk") for f in frames)
    first = frames[0]["choices"][0]["delta"]
    assert first == {"role": "assistant", "reasoning_content": 'a"\n', "reasoning": 'a"\n'}
    call = frames[2]["choices"][0]["delta"]["tool_calls"][0]
    assert call == {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert frames[3]["choices"][0]["delta"]["tool_calls"][0] == {"index": 0, "function": {"arguments": "{}"}}
    assert (frames[4]["choices"][0]["finish_reason"], frames[4]["disclosure"]) == ("stop", {"x": 1})
    assert frames[5]["choices"][0]["delta"] == {"refusal": "no"}
    assert frames[6]["choices"] == []


def test_a_stream_that_only_ends_still_says_who_spoke() -> None:
    frame = json.loads(Wire("i", 1, "m").finish(0, "content_filter", "no")[6:])
    assert frame["choices"][0]["delta"] == {"role": "assistant", "refusal": "no"}


def test_usage_is_counts_and_nothing_else() -> None:
    given = {
        "prompt_tokens": 3,
        "completion_tokens": True,
        "total_tokens": 9,
        "x": "y",
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    made = usage_of(given)
    assert made == {
        "prompt_tokens": 3,
        "completion_tokens": 0,
        "total_tokens": 3,
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert usage_of("text") is None
    twice = added(made, made)
    assert twice is not None
    assert (twice["total_tokens"], twice["completion_tokens_details"]["reasoning_tokens"]) == (6, 4)


def test_logprobs_of_any_other_text_are_dropped() -> None:
    given = {
        "content": [
            {"token": "a", "logprob": -1, "note": "x"},
            {"token": "b", "logprob": -2, "top_logprobs": [{"token": "c", "logprob": -3}]},
        ]
    }
    kept = logprobs_of(given, "ab")
    assert kept is not None
    assert [t["token"] for t in kept["content"]] == ["a", "b"]
    assert "note" not in kept["content"][0]
    assert kept["content"][1]["top_logprobs"] == []  # no filter has read what was not chosen
    assert logprobs_of(given, "aX") is None
    assert logprobs_of({"content": [5]}, "") is None


def test_a_plain_tool_call_has_its_fields() -> None:
    said = Said()
    said.add(Channel.TOOL_ARGS, '{"a"', 0, "f", "call_1")
    said.add(Channel.TOOL_ARGS, ":1}", 0)
    made = chat_choice(0, said, "tool_calls")
    assert made["message"]["content"] is None
    assert made["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    legacy = chat_choice(0, said, "tool_calls", functions=True)
    assert (legacy["finish_reason"], legacy["message"]["function_call"]["name"]) == ("function_call", "f")


def test_shadow_findings_do_not_flag() -> None:
    shadow = Finding("f", "r", "c", Action.BLOCK, shadow=True)
    loud = Finding("f", "r", "d", Action.BLOCK, score=0.9)
    assert result(Verdict(Action.ALLOW, (shadow,)))["flagged"] is False
    told = result(Verdict(Action.BLOCK, (shadow, loud)))
    assert (told["flagged"], told["categories"], told["category_scores"]) == (True, {"d": True}, {"d": 0.9})
    assert told["category_applied_input_types"] == {"d": ["text"]}
