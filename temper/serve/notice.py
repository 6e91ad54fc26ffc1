"""Disclosure: people are told that they talk to a machine, by a header, an object in the body, and a first message.

What is said is the policy's, and an API key may say it in its own way (`Caller.disclosure`). Domain notices ("this is no medical
advice") come from the gate of high-risk requests (`filters/risk.py`), which lets a request pass with one. Leaves out where the
gateway writes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from temper.config import build
from temper.errors import PolicyError
from temper.serve.policy import Disclosure
from temper.serve.verdict import Caller, Finding
from temper.types import Message

HEADER = "X-Temper-Disclosure"
DISCLAIMER = "disclaimer"
"""The rule of a finding that lets a request pass with a notice; its `replacement` is the notice."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a response carries: `headers`; `body`, the `disclosure` object, None for none; `first`, the text that stands before
    the content of a conversation's first answer ("" for none), with the blank line that parts them.
    """

    headers: Mapping[str, str]
    body: Mapping[str, Any] | None
    first: str = ""


def settings_of(disclosure: Disclosure, caller: Caller | None = None) -> Disclosure:
    """The policy's settings under those of an API key. Raises `PolicyError` for a key of theirs that is none."""
    if caller is None or not caller.disclosure:
        return disclosure
    made: Disclosure = build(Disclosure, {**asdict(disclosure), **caller.disclosure}, f"key {caller.id}: disclosure", PolicyError)
    return made


def notice(
    disclosure: Disclosure,
    messages: Iterable[Message] = (),
    findings: Iterable[Finding] = (),
    *,
    caller: Caller | None = None,
    model: str = "",
    policy: str = "",
) -> Notice:
    """What this answer carries. `messages` are the conversation so far, `findings` those of its input.

    The first message is given only where no assistant has spoken yet; notices of a domain are given each time.
    """
    said = settings_of(disclosure, caller)
    told = list(dict.fromkeys(f.replacement for f in findings if f.rule == DISCLAIMER and f.replacement and not f.shadow))
    headers = {HEADER: _header(said.text)} if said.header else {}
    body = {"ai_generated": True, "text": said.text, "notices": told, "model": model, "policy": policy} if said.object else None
    begins = all(m.role != "assistant" for m in messages)
    first = [said.first_message] if said.first_message and begins else []
    return Notice(headers, body, "".join(f"{text}\n\n" for text in [*first, *told]))


def _header(text: str) -> str:
    """A structured field (RFC 9651): a token, and the text as a quoted string where it is plain ASCII."""
    if not text.isascii() or not text.isprintable():
        return "ai-generated"
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'ai-generated;text="{quoted}"'
