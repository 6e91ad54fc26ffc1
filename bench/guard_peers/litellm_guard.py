"""The rules as LiteLLM's custom guard: `apply_guardrail` is its documented single hook, scanned every fifth event of a stream.

`Buffered` asks LiteLLM to hold the stream until it was scanned whole. Neither inherits from the other: LiteLLM runs the hook only
where the class itself defines it.
"""

import re

from cases import PHRASES, REGEXES
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail

PATTERNS = [re.compile(pattern) for pattern in REGEXES]


def check(inputs: dict) -> dict:
    for text in [*(inputs.get("texts") or []), *map(str, inputs.get("tool_calls") or [])]:
        if any(pattern.search(text) for pattern in PATTERNS) or any(phrase in text for phrase in PHRASES):
            raise HTTPException(status_code=400, detail={"error": "blocked by rule guard"})
    return inputs


class Rules(CustomGuardrail):
    async def apply_guardrail(self, inputs, request_data, input_type, logging_obj=None):
        return check(inputs)


class Buffered(CustomGuardrail):
    streaming_buffer_until_moderated = True

    async def apply_guardrail(self, inputs, request_data, input_type, logging_obj=None):
        return check(inputs)
