"""What passes between a guard family and whoever runs its model: questions, replies, verdicts; and the escaping of judged text.

Leaves out the families (the files beside this one) and the models (models.guard for local weights, `endpoint` for a server).
"""

import importlib.resources
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from temper.types import Message

Odds = Mapping[str, Mapping[str, float]]
"""For each step of a reply, by name, the probability of each of its labels; they sum to 1. Empty where only the text is known."""

Reply = tuple[str, Odds]
"""What a guard said in answer to one question: the text in the family's own format, and the odds of its verdicts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One verdict inside a reply: `lead` is the text the model writes before it, `labels` what it may be, leading space included.

    With `until`, the model first writes up to `tokens` tokens of its own, to the end of that mark (a thinking guard).
    """

    name: str
    lead: str
    labels: tuple[str, ...]
    until: str = ""
    tokens: int = 0

    @property
    def mark(self) -> str:
        """The last line of what comes before the label: where the label is found in a free reply."""
        return self.until or self.lead.strip().rpartition("\n")[2]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to a guard.

    `messages` and `options` are for the chat template that the model ships (`options` are its keyword arguments), `text` is our
    own copy of the rendered template without the token that begins a sequence. `tail` is how many tokens may follow the last
    step, if the first step's label is one of `tail_after`. `alone` says that the prompt is judged, `about` names the policy;
    `parts` is how the model's own template wants its messages.
    """

    messages: tuple[Message, ...]
    text: str
    steps: tuple[Step, ...]
    options: tuple[tuple[str, object], ...] = ()
    tail: int = 0
    tail_after: tuple[str, ...] = ()
    alone: bool = False
    about: str = ""
    parts: bool = False

    def chat(self) -> list[dict[str, object]]:
        """The messages as a chat template reads them; some want the content as a list of typed parts."""
        return [
            {"role": m.role, "content": [{"type": "text", "text": m.content}] if self.parts else m.content} for m in self.messages
        ]


class Verdict(NamedTuple):
    """What a guard holds of one text: P(unsafe), P(refusal) if it says so, and AILuminate codes or its own category names."""

    unsafe: float
    refusal: float | None = None
    categories: tuple[str, ...] = ()


class Family(Protocol):
    """How one family of guards is asked and read; all pure functions.

    `languages` are the ISO 639-1 codes its authors document, `limit` the tokens of context they document, `shipped` whether the
    models bring a chat template, `version` that of our copy of it. `unsafe` and `refusal` name a step and those of its labels
    that mean so.
    """

    @property
    def name(self) -> str: ...
    @property
    def languages(self) -> frozenset[str]: ...
    @property
    def limit(self) -> int: ...
    @property
    def shipped(self) -> bool: ...
    @property
    def version(self) -> int: ...
    @property
    def unsafe(self) -> tuple[str, tuple[str, ...]]: ...
    @property
    def refusal(self) -> tuple[str, tuple[str, ...]] | None: ...

    def escape(self, text: str, /) -> str:
        """The text with nothing in it that could end its place in the template."""
        ...

    def asks(self, prompt: str, response: str | None, /) -> tuple[Ask, ...]:
        """The questions about a pair of escaped texts, or about the prompt alone; several where a guard knows one policy each."""
        ...

    def parse(self, text: str, ask: Ask, /) -> Verdict | None:
        """A reply's text -> a verdict of 0 or 1; None if it is not in the documented format."""
        ...


def read(family: Family, reply: Reply, ask: Ask) -> Verdict | None:
    """The verdict of a reply: its text says whether there is one and its categories, its odds, where known, how sure it is.

    There is none where the odds are not numbers: a model that computes NaN has said nothing.
    """
    text, odds = reply
    parsed = family.parse(text, ask)
    if parsed is None or not all(math.isfinite(p) for labels in odds.values() for p in labels.values()):
        return None
    unsafe, refusal = chance(odds, family.unsafe), chance(odds, family.refusal)
    return Verdict(parsed.unsafe if unsafe is None else unsafe, parsed.refusal if refusal is None else refusal, parsed.categories)


def chance(odds: Odds, wanted: tuple[str, tuple[str, ...]] | None) -> float | None:
    """Sum of the probabilities of a step's labels; None if the step was not weighed."""
    if wanted is None or wanted[0] not in odds:
        return None
    return min(1.0, sum(odds[wanted[0]].get(label, 0.0) for label in wanted[1]))


_BRACKET = re.compile(r"<(?=\S)|\[(?=/?[A-Z_]{2})")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_UNSPEAKABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def escaper(headings: Sequence[str]) -> Callable[[str], str]:
    """A function that makes a text unable to leave its place in a template, whose line-opening `headings` ("User") are given.

    A space goes after every `<`, and after every `[` before capitals, so that no control token and no marker of a template can
    be spelled; a line that opens like a turn, also behind a few marks, gets a space before its colon. Control characters and
    halves of surrogate pairs, which no tokenizer takes, become U+FFFD. Words are never changed or removed.
    """
    names = "|".join(re.escape(name) for name in headings)
    turn = re.compile(rf"^([^\w\n]{{0,8}}(?:{names}))(?=[^\w\n:]{{0,8}}:)", re.IGNORECASE | re.MULTILINE)

    def escape(text: str) -> str:
        plain = _LINE_END.sub("\n", _UNSPEAKABLE.sub("\ufffd", text))
        return turn.sub(r"\1 ", _BRACKET.sub(lambda m: f"{m[0]} ", plain))

    return escape


_SLOT = re.compile(r"\{(\w+)\}")


def filled(template: str, **parts: str) -> str:
    """The template with its slots filled, all at once: a slot that is spelled inside a part stays as it is."""
    return _SLOT.sub(lambda slot: parts.get(slot[1], slot[0]), template)


@cache
def templates(family: str) -> dict[str, Any]:
    """The templates of a family, verbatim, from the file that carries them."""
    file = importlib.resources.files("temper.graders.guards") / "data" / f"{family}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def pair(prompt: str, response: str | None) -> tuple[Message, ...]:
    """A prompt, and the response to it if there is one, as the turns of a conversation."""
    asked = Message("user", prompt)
    return (asked,) if response is None else (asked, Message("assistant", response))
