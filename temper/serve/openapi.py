"""The OpenAPI description of the routes that FastAPI does not see, or whose bodies it does not parse."""

from collections.abc import Mapping
from typing import Any

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _TEXT},
}
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _PART, "minItems": 1}]}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"}
_MODEL = {"type": "string", "minLength": 1, "maxLength": 200}


def _message(role: object, **more: Any) -> dict[str, Any]:
    given = {"role": role, "content": _CONTENT, "name": _NAME, **more}
    return {"type": "object", "required": ["role", "content", *more], "properties": given}


def _nullable(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that a client may send as null, which counts as absent."""
    return {name: {"anyOf": [kind, {"type": "null"}]} for name, kind in properties.items()}


_OPTIONS: Mapping[str, Any] = {
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "n": {"type": "integer", "minimum": 1, "maximum": 16},
    "temperature": {"type": "number", "minimum": 0, "maximum": 10},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
    "max_tokens": {"type": "integer", "minimum": 1},
    "max_completion_tokens": {"type": "integer", "minimum": 1},
    "frequency_penalty": {"type": "number", "minimum": -10, "maximum": 10},
    "presence_penalty": {"type": "number", "minimum": -10, "maximum": 10},
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16},
        ]
    },
}
_SAMPLING: Mapping[str, Any] = {"model": _MODEL, **_nullable(_OPTIONS)}
_CHAT = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        **_SAMPLING,
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    _message({"enum": ["system", "developer", "user"]}),
                    _message({"const": "assistant"}),
                    _message({"const": "tool"}, tool_call_id=_NAME),
                ]
            },
        },
        **_nullable(
            {
                "tools": {"type": "array", "maxItems": 256, "items": {"$ref": "#/components/schemas/Tool"}},
                "response_format": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
                },
                "moderation": {"type": "object"},
            }
        ),
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {
        **_SAMPLING,
        "prompt": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 64}]},
    },
}
_MODERATION = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": _TEXT,
        "input": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 64},
                {"type": "array", "items": _PART, "minItems": 1, "maxItems": 64},
            ]
        },
    },
}
_SCHEMAS: Mapping[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "Tool": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": _NAME, "description": _TEXT, "parameters": {"type": "object"}},
            },
        },
    },
    "Usage": {
        "type": "object",
        "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
        "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
    },
    "Answer": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": _TEXT,
            "object": {"enum": ["chat.completion", "text_completion"]},
            "created": _COUNT,
            "model": _TEXT,
            "choices": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["index", "finish_reason"],
                    "properties": {
                        "index": _COUNT,
                        "finish_reason": {"enum": ["stop", "length", "tool_calls", "function_call", "content_filter"]},
                        "message": {
                            "type": "object",
                            "required": ["role", "content", "refusal"],
                            "properties": {
                                "role": {"const": "assistant"},
                                "content": {"type": ["string", "null"]},
                                "refusal": {"type": ["string", "null"]},
                                "reasoning_content": _TEXT,
                                "reasoning": _TEXT,
                            },
                        },
                        "text": _TEXT,
                    },
                },
            },
            "usage": {"$ref": "#/components/schemas/Usage"},
            "moderation": {"type": "object"},
            "disclosure": {"type": "object"},
            "lint": {"type": "object"},
            "hold": {"type": "object"},
        },
    },
    "Ticket": {
        "type": "object",
        "required": ["id", "object", "state", "message"],
        "properties": {"id": _TEXT, "object": {"const": "hold"}, "state": _TEXT, "message": _TEXT},
    },
    "Moderations": {
        "type": "object",
        "required": ["id", "model", "results"],
        "properties": {
            "id": _TEXT,
            "model": _TEXT,
            "results": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["flagged", "categories", "category_scores", "category_applied_input_types"],
                    "properties": {"flagged": {"type": "boolean"}},
                },
            },
        },
    },
}
_FAILURES: Mapping[str, str] = {
    "400": "The request is wrong, or its text is blocked (code `content_filter`).",
    "401": "No valid API key.",
    "403": "The key may not do this.",
    "404": "No such model.",
    "413": "The request is too large.",
    "429": "A limit of the key, or of the model server; see Retry-After.",
    "502": "The model server failed.",
    "503": "No room, or a filter is broken; see Retry-After.",
    "504": "The model server was too slow.",
}


def described(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with the hot routes and the moderations added. Gives the same document each time it is called."""
    if "/v1/chat/completions" in document["paths"]:
        return document
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_SCHEMAS)
    schemas.update(ChatRequest=_CHAT, CompletionRequest=_COMPLETION, ModerationRequest=_MODERATION)
    failures = {status: _json(said, "Error") for status, said in _FAILURES.items()}
    for operation in [o for path in document["paths"].values() for o in path.values()]:
        # FastAPI's own 422 is never sent: a wrong request is a 400 in OpenAI's shape
        told = {status: of for status, of in operation["responses"].items() if status != "422"}
        operation["responses"] = {**failures, **told}
    ticket = {"202": _json("Held for review (with Prefer: respond-async).", "Ticket")}
    document["paths"] |= {
        "/v1/chat/completions": _post("Answer a conversation.", "chat", "ChatRequest", "Answer", stream=True, more=ticket),
        "/v1/completions": _post("Continue a prompt.", "chat", "CompletionRequest", "Answer", stream=True, more=ticket),
        "/v1/moderations": _post("Whether texts break the policy.", "moderations", "ModerationRequest", "Moderations"),
    }
    return document


def _post(
    summary: str, tag: str, asked: str, given: str, *, stream: bool = False, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    good = _json("The answer.", given)
    if stream:
        good["content"]["text/event-stream"] = {"schema": {"type": "object", "properties": {"data": _TEXT}}}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{asked}"}}}}
    failures = {status: _json(said, "Error") for status, said in _FAILURES.items()}
    return {
        "post": {"summary": summary, "tags": [tag], "requestBody": body, "responses": {"200": good, **(more or {}), **failures}}
    }


def _json(said: str, schema: str) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
