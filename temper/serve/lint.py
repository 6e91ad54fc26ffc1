"""Prompts that R1's authors advise against, told with a reason and a fix, and rewritten into a plain structure on request.

The advice (deepseek-ai/DeepSeek-R1, README and the paper's appendix): no few-shot examples, no system prompt, all instructions in
the user's turn, the language and the output format stated, temperature 0.5 to 0.7. A rewriting moves words and adds headings; it
leaves out none of the user's. Whether the advice holds for a model is measured by `temper prove --grid` (docs/prompting.md).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from temper.errors import DataError
from temper.serve.filters.language import NAMES
from temper.serve.policy import Lint
from temper.text.asked import asked_for
from temper.types import Message

CHECKS = ("ambiguous", "few-shot", "no-language", "no-format", "system-prompt", "temperature")
"""Every check; the last two, and few-shot, are about R1-type models only."""
HEADER = "X-Temper-Lint"
COOLEST, WARMEST = 0.5, 0.7
READ = 20_000
"""Characters of the request that are read, from its beginning."""
SHOTS = 2
"""Worked examples from which on a prompt counts as few-shot."""
FEW = 3
"""Words below which a request that begins a conversation is too short to be clear; Chinese characters count half a word."""

Mode = Literal["off", "warn", "rewrite", "refuse"]

_R1 = frozenset({"few-shot", "system-prompt", "temperature"})
_SAYS = {
    "ambiguous": (
        "the request does not say what is wanted, or of what",
        "Name the thing you mean and what is to be done with it.",
    ),
    "few-shot": (
        "the request brings worked examples, which R1's authors found to make R1 worse",
        "Describe the task and the output instead of showing examples.",
    ),
    "no-language": ("no language is named for the answer", 'Say it, as in "Answer in English."'),
    "no-format": ("no form is named for the answer", 'Say it, as in "Answer in three short paragraphs", or set response_format.'),
    "system-prompt": (
        "a system prompt is given to a reasoning model whose authors advise against one",
        "Put the instructions into the user's message.",
    ),
    "temperature": (
        f"the temperature lies outside {COOLEST} to {WARMEST}, where R1 repeats itself or loses the thread",
        "Use 0.6, and top_p 0.95.",
    ),
}
_SHOT = re.compile(
    r"^[ \t>*#-]{0,8}(?:(?:q|question|input|user|prompt|problem|frage|pregunta|问题|问|输入)[ \t]?\d{0,3}[ \t]?[:：]"
    r"|(?:example|beispiel|exemple|ejemplo|示例|例子?)[ \t]?#?\d{1,3}\b)",
    re.IGNORECASE | re.MULTILINE,
)
_REPLY = re.compile(
    r"^[ \t>*#-]{0,8}(?:a|answer|output|assistant|response|solution|label|antwort|réponse|respuesta|答案|答|输出)"
    r"[ \t]?\d{0,3}[ \t]?[:：][ \t]*\S",
    re.IGNORECASE | re.MULTILINE,
)
_ARROW = re.compile(r"^[^\n]{1,200}(?:->|=>|→)[^\n]{1,200}$", re.MULTILINE)
_FORMAT = re.compile(
    r"\b(?:json|yaml|xml|csv|html|markdown|latex|table|bullets?|bullet[- ]points?|list|numbered|steps?|outline"
    r"|paragraphs?|sentences?|words?|lines?|characters?|pages?|essay|poem|haiku|sonnet|limerick|story|email|e-mail|letter|report"
    r"|summary|summari[sz]e|headline|title|tweet|slogan|recipe|dialogue|script|code|function|program|class|query|sql|regex|python"
    r"|javascript|boxed|number|yes or no|true or false|one word|briefly|short|concise|in detail|detailed|format|template"
    r"|translate|translation|rewrite|tabelle|liste|absätze|sätze|stichpunkte|tableau|phrases|paragraphes|tabla|lista|párrafos|frases)\b"
    r"|表格|列表|段落|分点|步骤|字以内|格式|邮件|代码|函数|翻译|总结|概括|作文|诗",
    re.IGNORECASE,
)
_TONGUES = "english|englisch|german|deutsch|french|français|spanish|español|italian|russian|chinese|japanese|korean|arabic|hindi"
_LANGUAGE = re.compile(
    rf"\b(?:in|auf|en|into|to)\s+(?:(?:plain|simple|british|american|good)\s)?(?:{_TONGUES})\b|用(?:中文|英文|英语|汉语|日语)",
    re.IGNORECASE,
)
_IT = "(?: (?:it|this|that|more|better))*"
_VAGUE = re.compile(
    rf"\W*(?:please |can you |could you )?(?:help(?: me)?|do{_IT}|fix{_IT}|explain{_IT}|improve{_IT}|make{_IT}|continue|go on"
    r"|more|tell me (?:something|more|about (?:it|this|that|stuff|things))|what about (?:it|this|that)|write something"
    r"|say something|anything|something|stuff|and|so|ok|okay|yes|no|why|how|what|帮帮我|继续|然后呢)\W*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
_HEADINGS = ("# Instructions", "# Task", "# Context", "# Language", "# Output format")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_ASKS = re.compile(r"[?？]\s*$")


@dataclass(frozen=True, slots=True)
class Remark:
    """One check that a prompt does not pass: why it matters, and what to write instead. It never quotes the prompt."""

    check: str
    why: str
    fix: str


def lint(
    messages: Sequence[Message], settings: Lint, *, language: str = "", formatted: bool = False, temperature: float | None = None
) -> tuple[Remark, ...]:
    """The remarks on a request, in the order of `CHECKS`. `language` is the target the policy or the request set in another way,
    `formatted` says that a schema holds; nothing is said of a temperature that is None.
    """
    asked = next((m.content for m in reversed(messages) if m.role == "user"), "")[:READ]
    failed = {
        "ambiguous": _ambiguous(asked, messages),
        "few-shot": _few_shot(asked),
        "no-language": not language and not asked_for(_all(messages)) and not _LANGUAGE.search(_all(messages)),
        "no-format": not formatted and not _FORMAT.search(_all(messages)),
        "system-prompt": any(m.role == "system" and m.content.strip() for m in messages),
        "temperature": temperature is not None and not COOLEST <= temperature <= WARMEST,
    }
    wanted = {*settings.checks, *(_R1 if settings.reasoning_model else ())}
    wanted -= set() if settings.reasoning_model else _R1
    return tuple(Remark(check, *_SAYS[check]) for check in CHECKS if check in wanted and failed[check])


def rewritten(messages: Sequence[Message], settings: Lint, *, language: str = "", output: str = "") -> tuple[Message, ...]:
    """The request with its last user turn under headings: task, context, language, output format.

    The paragraph that asks is the task (the last one with a question mark, or else the first), the others are its context, in
    their order. `language` is the code of the target and `output` describes the format, each "" where nothing is to be added. For
    R1-type models system turns become instructions in the user's. A request already under these headings, or without a user's
    turn, comes back as it is.
    """
    last = max((n for n, m in enumerate(messages) if m.role == "user"), default=-1)
    if last < 0 or messages[last].content.lstrip().startswith(_HEADINGS):
        return tuple(messages)
    moved = [m.content for m in messages if m.role == "system" and m.content.strip()] if settings.reasoning_model else []
    task, context = _task(messages[last].content)
    sections = ["\n\n".join(moved), task, context, f"Answer in {NAMES.get(language, language)}." if language else "", output]
    text = "\n\n".join(f"{heading}\n{section}" for heading, section in zip(_HEADINGS, sections, strict=True) if section.strip())
    return tuple(
        Message("user", text) if n == last else m
        for n, m in enumerate(messages)
        if not (moved and m.role == "system" and m.content.strip())
    )


def mode(settings: Lint, asked: object = None) -> Mode:
    """What is done for one request: the policy's mode, or what the request's `temper: {"lint": ...}` asks for.

    A rewriting may be asked for unless the policy says "off"; "warn" and "off" may decline one, but not escape a refusal. Raises
    `DataError`.
    """
    if asked not in (None, "off", "warn", "rewrite"):
        raise DataError('temper.lint: wanted "off", "warn" or "rewrite"')
    if asked is None or settings.mode == "off" or (settings.mode == "refuse" and asked != "rewrite"):
        return settings.mode
    return "rewrite" if asked == "rewrite" else "off" if asked == "off" else "warn"


def header(remarks: Sequence[Remark]) -> str:
    """The value of `X-Temper-Lint`: the checks that failed."""
    return ", ".join(r.check for r in remarks)


def body(remarks: Sequence[Remark], done: Mode) -> dict[str, Any]:
    """The `lint` object of an answer."""
    return {"mode": done, "remarks": [{"check": r.check, "why": r.why, "fix": r.fix} for r in remarks]}


def _all(messages: Sequence[Message]) -> str:
    """What users and systems said, the latest first, so that the cut takes the oldest."""
    return "\n".join(m.content[:READ] for m in reversed(messages) if m.role != "assistant")[:READ]


def _ambiguous(asked: str, messages: Sequence[Message]) -> bool:
    begins = all(m.role != "assistant" for m in messages)
    return begins and (bool(_VAGUE.fullmatch(asked[:200])) or _length(asked[:200]) < FEW)


def _length(text: str) -> float:
    return sum(0.5 if "\u3040" <= word[0] <= "\u9fff" else 1.0 for word in _WORD.findall(text))


def _few_shot(asked: str) -> bool:
    """Pairs of a question and a reply, or lines of the shape a -> b."""
    pairs = min(sum(1 for _ in _SHOT.finditer(asked)), sum(1 for _ in _REPLY.finditer(asked)))
    return pairs >= SHOTS or sum(1 for _ in _ARROW.finditer(asked)) > SHOTS


def _task(text: str) -> tuple[str, str]:
    """The paragraph that asks, and the others; a text with code in fences is not cut."""
    parts = [p for p in _paragraphs(text) if p.strip()]
    if len(parts) < 2:
        return text, ""
    at = max((n for n, p in enumerate(parts) if _ASKS.search(p)), default=0)
    return parts[at], "\n\n".join(p for n, p in enumerate(parts) if n != at)


def _paragraphs(text: str) -> list[str]:
    return [text] if "```" in text or "~~~" in text else _PARAGRAPH.split(text)
