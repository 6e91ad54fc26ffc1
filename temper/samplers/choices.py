"""What a chat server is asked so that its reply is one of a few strings, and what is read out of the reply.

The fields are those that the documentation of vLLM (0.12 and later), SGLang, llama.cpp, Ollama and OpenAI names.
Without a network.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from temper.text.split import split

Form = Literal["auto", "logprobs", "vllm", "sglang", "llama.cpp", "json", "plain"]
AUTO = ("logprobs", "json", "plain")
READING = 2
"""Version of how choices are asked for and read; replies that another version kept are not used."""
Spoken = tuple[str, Sequence[tuple[str, Mapping[str, float]]]]
"""A reply's text, and each of its tokens with the log-probabilities in its place."""

CONTENT_FILTER = "content_filter"
"""The finish_reason by which a server says that a guard withheld the reply, or the rest of it."""

_MOST = 10**15  # tokens that a server may claim; more, or fewer than none, are no count
_TOP = 20  # the most that OpenAI and a vLLM server with its defaults list
_SHORT = 60  # characters of a reply that may still be a label, and that an error shows
_THOUGHT_ENDS = ("</think>", "<|message|>")
_MARKS = " \t\n\"'`*_().:“”‘’。："
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
_HEADING = re.compile(r"(?:(?:the|my|final)\s+)*(?:answer|verdict|label|choice|grade)[\s*_]*:", re.IGNORECASE)
_DECLINED = re.compile(r"(?:i['’]?m sorry|i am sorry|sorry|i can['’]?t|i cannot|i can not|i won['’]?t|as an ai)\b", re.IGNORECASE)


def _finite(told: Any) -> Any:
    """JSON as it was told, with null for a number that JSON has no name for, or that is too long to write."""
    if isinstance(told, Mapping):
        return {name: _finite(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_finite(value) for value in told]
    if isinstance(told, int):
        return told if abs(told) < _MOST else None
    return None if isinstance(told, float) and not math.isfinite(told) else told


def _plausible(count: int | None) -> int | None:
    return count if count is not None and 0 <= count < _MOST else None


Told = Annotated[Any, AfterValidator(_finite)]
Count = Annotated[int | None, AfterValidator(_plausible)]


class ChatMessage(BaseModel):
    """`reasoning_content` and `reasoning` are two servers' names of the thought; some send both, one of them null."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None

    @property
    def thought(self) -> str | None:
        return self.reasoning_content or self.reasoning if self.reasoning else self.reasoning_content


class ChatChoice(BaseModel):
    """One choice of /chat/completions, or with `text` of /completions, whose log-probabilities have another form."""

    message: ChatMessage = ChatMessage()
    text: str = ""
    finish_reason: str | None = None
    logprobs: Any = None
    content_filter_results: Told = None

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


class Details(BaseModel):
    reasoning_tokens: Count = None


class Counts(BaseModel):
    """Tokens as a server counts them; those of the thought stand in `completion_tokens_details` (OpenAI, DeepSeek), or beside the
    others (SGLang).
    """

    prompt_tokens: Count = None
    completion_tokens: Count = None
    reasoning_tokens: Count = None
    completion_tokens_details: Details | None = None

    @property
    def thought(self) -> int | None:
        """Tokens of the thought, None where the server does not say."""
        details = self.completion_tokens_details
        return self.reasoning_tokens if details is None or details.reasoning_tokens is None else details.reasoning_tokens


class Reply(BaseModel):
    """`guard` and `moderation` (OpenAI's name) are what a guarded gateway tells of its own verdicts, in whatever form."""

    choices: list[ChatChoice] = Field(min_length=1)
    usage: Counts | None = None
    guard: Told = None
    moderation: Told = None


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


def named(question: str, choices: Sequence[str]) -> dict[str, str]:
    """What the question says each choice stands for ("A = unsafe"), as it last says so; for replies that repeat it."""
    found = {choice: re.findall(rf"\b{re.escape(choice)} = ([^,()\n]+)", question) for choice in choices}
    return {choice: names[-1].strip() for choice, names in found.items() if names}


def read_choice(reply: Reply, choices: Sequence[str], names: Mapping[str, str]) -> tuple[dict[str, float] | None, str]:
    """The probabilities of the choices in a reply, or why there are none; they sum to what the model gave to choices at all.

    The text of the reply has to be one of the choices, whatever was asked for and whatever its first token is: alone, between
    marks, behind "Answer:", before its own name, or as JSON. Then the probabilities are those of its token and of the others'
    at that place, or 1 where the server tells none. A reply that the server or the model calls a refusal is none of them.
    """
    choice = reply.choices[0]
    text = _answer(choice)
    if _refused(choice, text):
        return None, "the judge refused to judge"
    said = _label(text, choices, names)
    if said is None:
        return None, _no_label(choice, text)
    token = _answering(choice, said)
    if token is None:
        return {said: 1.0}, ""
    chances = _chances(token, choices)
    return (chances, "") if said in chances else (None, "the log-probability of the server's label is no number")


def _answer(choice: ChatChoice) -> str:
    """The reply after its thought, if it has one."""
    content = choice.message.content or ""
    return content.strip() if choice.message.thought is not None else split(content).answer


def _refused(choice: ChatChoice, text: str) -> bool:
    return bool(choice.message.refusal) or choice.finish_reason == CONTENT_FILTER or _DECLINED.match(text) is not None


def _label(text: str, choices: Sequence[str], names: Mapping[str, str]) -> str | None:
    """The choice that a short reply is, in either case of its letters."""
    if len(text) > _SHORT:
        return None
    fenced = _FENCE.fullmatch(text)
    plain = fenced[1] if fenced else text
    if plain.startswith("{"):
        return _same(_verdict(plain), choices)
    plain = plain.strip(_MARKS)
    heading = _HEADING.match(plain)
    label, _, name = plain[heading.end() if heading else 0 :].strip(_MARKS).partition(":")
    found = _same(label.strip(_MARKS), choices)
    return found if not name or (found and names.get(found, "").casefold() == name.strip(_MARKS).casefold()) else None


def _same(text: str | None, choices: Sequence[str]) -> str | None:
    """The choice that is spelled so; in other letter case where that leaves no doubt."""
    if text is None or text in choices:
        return text
    alike = [choice for choice in choices if choice.casefold() == text.casefold()]
    return alike[0] if len(alike) == 1 else None


def _verdict(text: str) -> str | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    found = body.get("verdict") if isinstance(body, dict) and len(body) == 1 else None
    return found if isinstance(found, str) else None


def _chances(token: Token, choices: Sequence[str]) -> dict[str, float]:
    """Probabilities of those choices that the server lists at a token; tokens that read alike are added, NaN and inf left out."""
    found: dict[str, float] = {}
    for name, logprob in {(listed.token, listed.logprob) for listed in (token, *(token.top_logprobs or ()))}:
        same = _same(_bare(name), choices)
        if same is not None and math.isfinite(logprob):
            found[same] = min(1.0, found.get(same, 0.0) + math.exp(min(0.0, logprob)))
    return found


def _answering(choice: ChatChoice, label: str) -> Token | None:
    """The token that is the label: the first one with a letter after the end of the thought, if there was a thought."""
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
            return token if _same(_bare(token.token), [label]) else None
        at += len(token.token)
    return None


def _bare(token: str) -> str:
    """A token without the marks around it, and without those that stand for a space in tokenizers' own spelling."""
    return token.replace("▁", " ").replace("Ġ", " ").strip(_MARKS)


def _no_label(choice: ChatChoice, text: str) -> str:
    if choice.finish_reason == "length" and not text:
        return "the judge's thought was cut off; raise max_tokens"
    return f"the reply is no label: {' '.join(text[:_SHORT].split())!r}" if text else "the judge's reply was empty"
