"""What a chat server is asked so that its reply is one of a few strings, and what is read out of the reply.

The fields are those that the documentation of vLLM (0.12 and later), SGLang, llama.cpp, Ollama and OpenAI names.
Without a network.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator

from temper.text.split import split

Form = Literal["auto", "logprobs", "vllm", "sglang", "llama.cpp", "json", "plain"]
AUTO = ("logprobs", "json", "plain")
READING = 1
"""Version of how choices are asked for and read; replies that another version kept are not used."""
Spoken = tuple[str, Sequence[tuple[str, Mapping[str, float]]]]
"""A reply's text, and each of its tokens with the log-probabilities in its place."""

CONSTRAINED = frozenset({"vllm", "sglang", "llama.cpp"})
_TOP = 20  # the most that OpenAI and a vLLM server with its defaults list
_ENOUGH = 0.5
_SHORT = 60  # characters of a reply that may still be a label, and that an error shows
_THOUGHT_ENDS = ("</think>", "<|message|>")
_DECLINED = re.compile(r"(?:i['’]?m sorry|i am sorry|sorry|i can['’]?t|i cannot|i can not|i won['’]?t|as an ai)\b", re.IGNORECASE)


class ChatMessage(BaseModel):
    content: str | None = None
    thought: str | None = Field(default=None, validation_alias=AliasChoices("reasoning_content", "reasoning"))
    refusal: str | None = None


class ChatChoice(BaseModel):
    """One choice of /chat/completions, or with `text` of /completions, whose log-probabilities have another form."""

    message: ChatMessage = ChatMessage()
    text: str = ""
    finish_reason: str | None = None
    logprobs: Any = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not {"message", "text"} & self.model_fields_set:
            raise ValueError("a choice needs a message or a text")
        return self


class Listed(BaseModel):
    token: str
    logprob: float


class Token(Listed):
    top_logprobs: list[Listed] | None = None


class Logprobs(BaseModel):
    content: list[Token] | None = None


class Counts(BaseModel):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0


class Reply(BaseModel):
    choices: list[ChatChoice] = Field(min_length=1)
    usage: Counts | None = None


def spoken(choice: ChatChoice) -> Spoken:
    """A choice's text, and its tokens with the log-probabilities in their place; no tokens where the server gives none."""
    text, given = choice.message.content or choice.text, choice.logprobs if isinstance(choice.logprobs, dict) else {}
    try:
        listed = _Listing.model_validate(given)
    except ValidationError:
        return text, []
    if listed.content is not None:
        return text, [(t.token, {a.token: a.logprob for a in (*(t.top_logprobs or []), t)}) for t in listed.content]
    return text, [(token, top or {}) for token, top in zip(listed.tokens or [], listed.top_logprobs or [], strict=False)]


class _Listing(Logprobs):
    """Log-probabilities in either form: `content` of /chat/completions, `tokens` and `top_logprobs` of /completions."""

    tokens: list[str] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


def form_fields(form: str, choices: Sequence[str]) -> dict[str, object]:
    """What a request needs beyond messages so that the reply is one of the choices, in each server's own words."""
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": list(choices)}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    wanted: dict[str, dict[str, object]] = {
        "vllm": {"structured_outputs": {"choice": list(choices)}},
        "sglang": {"regex": f"({'|'.join(map(re.escape, choices))})"},
        "llama.cpp": {"grammar": "root ::= " + " | ".join(json.dumps(choice) for choice in choices)},
        "json": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
        },
    }
    asks = {} if form in ("json", "plain") else {"logprobs": True, "top_logprobs": _TOP}
    return asks | wanted.get(form, {})


def read_choice(reply: Reply, choices: Sequence[str], *, constrained: bool) -> tuple[dict[str, float] | None, str]:
    """The probabilities of the choices in a reply, or why there are none; they sum to what the model gave to choices at all.

    A reply that is one of the choices gives the probabilities of its token and of the others' at that place, or 1 where the
    server tells none. A longer reply counts only if most of its first token's probability is on choices.
    """
    choice = reply.choices[0]
    text = _answer(choice)
    chances = _first_token(choice, text, choices)
    said = _label(text, choices)
    if said is not None:
        return (chances if said in chances else {said: 1.0}), ""
    if chances and (constrained or sum(chances.values()) >= _ENOUGH):
        return chances, ""
    return None, _no_label(choice, text)


def _answer(choice: ChatChoice) -> str:
    """The reply after its thought, if it has one."""
    content = choice.message.content or ""
    return content.strip() if choice.message.thought is not None else split(content).answer


def _label(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a short reply is: alone, between marks, or in the JSON that was asked for."""
    if len(text) > _SHORT:
        return None
    bare = _verdict(text) if text.startswith("{") else text.strip(" \t\n\"'`*().:")
    return bare if bare in choices else None


def _verdict(text: str) -> str | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    found = body.get("verdict") if isinstance(body, dict) and len(body) == 1 else None
    return found if isinstance(found, str) else None


def _first_token(choice: ChatChoice, answer: str, choices: Sequence[str]) -> dict[str, float]:
    """Probabilities of those choices that the server lists at the first token of the answer; tokens that read alike are added."""
    token = _answering(choice, answer)
    if token is None:
        return {}
    found: dict[str, float] = {}
    for name, logprob in {(listed.token, listed.logprob) for listed in (token, *(token.top_logprobs or ()))}:
        bare = _bare(name)
        if bare in choices:
            found[bare] = min(1.0, found.get(bare, 0.0) + math.exp(min(0.0, logprob)))
    return found


def _answering(choice: ChatChoice, answer: str) -> Token | None:
    """The token that begins the answer: the first one with a letter after the end of the thought, if there was a thought."""
    try:
        tokens = Logprobs.model_validate(choice.logprobs or {}).content or []
    except ValidationError:
        return None
    whole = "".join(t.token for t in tokens)
    begin = max((whole.rfind(mark) + len(mark) for mark in _THOUGHT_ENDS if mark in whole), default=0)
    if not begin and choice.message.thought:
        return None
    at = 0
    for token in tokens:
        if at >= begin and _bare(token.token):
            return token if answer.startswith(_bare(token.token)) else None
        at += len(token.token)
    return None


def _bare(token: str) -> str:
    """A token without the marks that stand for a space in tokenizers' own spelling."""
    return token.replace("▁", " ").replace("Ġ", " ").strip()


def _no_label(choice: ChatChoice, text: str) -> str:
    if choice.message.refusal or choice.finish_reason == "content_filter" or _DECLINED.match(text):
        return "the judge refused to judge"
    if choice.finish_reason == "length" and not text:
        return "the judge's thought was cut off; raise max_tokens"
    return f"the reply is no label: {' '.join(text[:_SHORT].split())!r}" if text else "the judge's reply was empty"
