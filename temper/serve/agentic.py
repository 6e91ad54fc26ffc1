"""Agentic use: a model may be given tools only where a policy clears it for them, and everybody else is told why not.

R1's authors warn against autonomous use of models that were not checked for it. A tool is whatever lets a model act or fetch:
functions, custom and built-in tools, MCP servers, a conversation in which tools were already called.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from temper.serve.policy import Agentic
from temper.serve.verdict import ACTIONS, Finding, Turn

_OFFERS = ("tools", "functions", "mcp_servers", "server_tools", "plugins")
"""Fields of a request that list tools."""
_SWITCHES = ("web_search_options", "tool_resources", "computer_use", "code_interpreter")
"""Fields that switch on a tool of the server by being there."""
_IDLE = (None, "", "none", "auto", False)
"""What a choice of tool says where it asks for none."""
_NAME = 64


def offered(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of all tools a chat request offers, calls for or has already used, each once; what `Turn.tools` holds."""
    found = [_named(tool, field) for field in _OFFERS for tool in _listed(body.get(field))]
    found += [field for field in _SWITCHES if body.get(field) not in (None, False)]
    found += [_named(body[field], field) for field in ("tool_choice", "function_call") if _chosen(body.get(field))]
    for message in _listed(body.get("messages")):
        if isinstance(message, Mapping):
            found += [_named(call, "tool_calls") for call in _listed(message.get("tool_calls"))]
            found += [_named(message["function_call"], "function_call")] if message.get("function_call") else []
            found += [f"role {message['role']}"] if message.get("role") in ("tool", "function") else []
    return tuple(dict.fromkeys(found))


def gate(turn: Turn, model: str, settings: Agentic) -> Finding | None:
    """None where the model may have the turn's tools, else a finding with the policy's action and the reason."""
    if not turn.tools or settings.action == "allow" or model in settings.cleared:
        return None
    cleared = "only the models that the policy clears for it may" if settings.cleared else "the policy clears no model for it"
    why = (
        f"the request gives tools to a model ({len(turn.tools)} in all), which is agentic use: it was not tested for acting"
        f" by itself, and {cleared}. Ask without tools, or have the model cleared"
    )
    return Finding("agentic", "not-cleared", "agentic", ACTIONS[settings.action], why=why)


def _chosen(choice: Any) -> bool:
    return isinstance(choice, Mapping) or choice not in _IDLE


def _listed(value: Any) -> Sequence[Any]:
    """The items of a list or the values of a table; anything else that is there counts as one tool."""
    if isinstance(value, Mapping):
        return list(value.values()) or []
    return value if isinstance(value, list) else [] if value in (None, "", False) else [value]


def _named(tool: Any, field: str) -> str:
    """A tool's own name, or that of its server or kind; the field where it has none."""
    if not isinstance(tool, Mapping):
        return tool[:_NAME] if isinstance(tool, str) else field
    inner = tool.get("function")
    held = inner if isinstance(inner, Mapping) else tool
    for key in ("name", "server_label", "type"):
        if isinstance(held.get(key), str) and held[key]:
            return (f"mcp:{held[key]}" if key == "server_label" else str(held[key]))[:_NAME]
    return field
