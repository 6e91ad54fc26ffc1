"""The gate of agentic use: what counts as a tool, and who may have them."""

from typing import Any

import pytest

from temper.serve.agentic import gate, offered
from temper.serve.policy import Agentic
from temper.serve.verdict import Action, canary_turn


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"tools": [{"type": "function", "function": {"name": "search"}}]}, ("search",)),
        ({"tools": [{"type": "function", "name": "flat"}]}, ("flat",)),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, ("custom",)),
        ({"tools": [{"type": "mcp", "server_label": "files", "server_url": "https://example.com"}]}, ("mcp:files",)),
        ({"tools": [{"type": "web_search"}]}, ("web_search",)),
        ({"tools": ["odd"]}, ("odd",)),
        ({"tools": [3]}, ("tools",)),
        ({"tools": {"a": {"name": "in a table"}}}, ("in a table",)),
        ({"functions": [{"name": "old"}]}, ("old",)),
        ({"mcp_servers": [{"name": "files", "url": "x"}]}, ("files",)),
        ({"web_search_options": {}}, ("web_search_options",)),
        ({"tool_choice": "required"}, ("required",)),
        ({"tool_choice": {"type": "function", "function": {"name": "go"}}}, ("go",)),
        ({"function_call": {"name": "go"}}, ("go",)),
        ({"messages": [{"role": "tool", "content": "42"}]}, ("role tool",)),
        ({"messages": [{"role": "function", "content": "42"}]}, ("role function",)),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "run"}}]}]}, ("run",)),
        ({"messages": [{"role": "assistant", "function_call": {"name": "run"}}]}, ("run",)),
        ({"tools": [{"function": {"name": "a"}}, {"function": {"name": "a"}}]}, ("a",)),
        ({"tools": [], "functions": None, "tool_choice": "auto", "function_call": "none"}, ()),
        ({"messages": [{"role": "user", "content": "hi"}, "odd"]}, ()),
        ({"messages": "odd"}, ()),
        ({}, ()),
    ],
)
def test_whatever_lets_a_model_act_is_a_tool(body: dict[str, Any], names: tuple[str, ...]) -> None:
    assert offered(body) == names


def test_a_name_is_cut() -> None:
    assert len(offered({"functions": [{"name": "x" * 10_000}]})[0]) == 64


@pytest.mark.parametrize(("action", "became"), [("block", Action.BLOCK), ("review", Action.REVIEW)])
def test_a_model_that_is_not_cleared_gets_no_tools_and_the_reason(action: Any, became: Action) -> None:
    found = gate(canary_turn(tools=("hunter2",)), "small-model", Agentic(action=action, cleared=("big-model",)))
    assert found is not None
    assert found.action is became
    assert "was not tested" in found.why
    assert "hunter2" not in found.why


def test_cleared_models_allowed_use_and_requests_without_tools_pass() -> None:
    turn = canary_turn(tools=("search",))
    assert gate(turn, "big-model", Agentic(cleared=("big-model",))) is None
    assert gate(turn, "any", Agentic(action="allow")) is None
    assert gate(canary_turn(), "any", Agentic()) is None


def test_a_name_that_begins_like_a_cleared_one_is_not_cleared() -> None:
    assert gate(canary_turn(tools=("search",)), "big-model-2", Agentic(cleared=("big-model",))) is not None
