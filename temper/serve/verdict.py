"""What a filter reads and what it says; this file does no work.

A `Turn` is one request under way. Its text flows through four channels; of each a filter gets a `View` and answers with
`Finding`s; the guard sums them up in a `Verdict`. Text is always judged as the whole of its channel so far, with the place where
the unread part begins, so that a filter may look as far back as it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Literal, Protocol

from temper.types import Example


class Channel(StrEnum):
    """Where text flows: what a user or tool said, and the three things a model writes."""

    INPUT = "input"
    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_ARGS = "tool_args"


OUTPUT = (Channel.REASONING, Channel.CONTENT, Channel.TOOL_ARGS)


class Action(IntEnum):
    """What becomes of text, from the mildest to the strictest: of several, the strictest counts."""

    ALLOW = 0
    REDACT = 1
    REWRITE = 2
    REVIEW = 3
    BLOCK = 4

    @property
    def label(self) -> str:
        return self.name.lower()


ACTIONS: Mapping[str, Action] = {a.label: a for a in Action}
Pace = Literal["window", "sentence", "final"]
"""How often a filter reads a stream: at every tick of the scan clock, at the ends of sentences, or once, at the end."""
Mode = Literal["strict", "window", "observe"]
"""How a stream is released: whole after its end, behind a hold-back window, or at once while findings are only written down."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request under way, as the filters know it. `example` is what was asked, the training row it may become.

    `language` is the target that was set ("" for that of the last user message); `schema` the JSON schema that the answer must
    fit; `tools` the names of the tools the model may call; `key` the id of the API key; `policy` the version of the policy.
    """

    id: str
    example: Example
    system: str = ""
    language: str = ""
    schema: Mapping[str, Any] | None = None
    tools: tuple[str, ...] = ()
    key: str = ""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The text of one channel so far. `fresh` is where the part begins that no earlier view had (0: all of it is new);
    `final` says that no more will come; `choice` numbers the answers of one request. `role` is who said a text of the input: what
    a tool brought is no order of anybody's.
    """

    channel: Channel
    text: str
    turn: Turn
    fresh: int = 0
    final: bool = True
    choice: int = 0
    role: str = "user"


@dataclass(frozen=True, slots=True)
class Finding:
    """One filter's opinion of one place in a text: `text[start:end]`, the whole text where both are 0.

    `action` None stands for what the policy says of this filter. `replacement` takes the place of redacted text. `why` is one
    sentence for a reviewer; it never quotes the text. A finding in shadow changes nothing and is written down.
    """

    filter: str
    rule: str = ""
    category: str = ""
    action: Action | None = None
    start: int = 0
    end: int = 0
    replacement: str = "[removed]"
    score: float | None = None
    why: str = ""
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a view: the strictest action of the findings that count, and all findings, shadows too.

    `errors` names the filters that failed, each already counted by its `on_error`. `scanned` is how much of the text every filter
    that must see it has read: nothing beyond may be released.
    """

    action: Action = Action.ALLOW
    findings: tuple[Finding, ...] = ()
    errors: tuple[str, ...] = ()
    scanned: int = 0

    @property
    def deciding(self) -> Finding | None:
        """The finding the action comes from, None where nothing was found."""
        counted = [f for f in self.findings if not f.shadow and f.action is not None]
        return max(counted, key=lambda f: f.action or 0, default=None)


@dataclass(frozen=True, slots=True)
class Canary:
    """A planted text on which a filter must fire, and the turn it stands in: what the self-test at start puts through.

    `others` are rules with a text each on which this rule of the filter must fire, for a filter that is many rules in one.
    """

    text: str
    turn: Turn
    others: tuple[tuple[str, str], ...] = ()


class Filter(Protocol):
    """A sensor: a frozen dataclass whose fields are its settings in `policy.toml`. A pure function of the view and the settings.

    `pace` is how often it reads a stream; `reach` the length in folded characters (`fold.py`) of the longest text it can match,
    which the hold-back window exceeds; 0 for one that judges texts as a whole. `heavy` says that a call takes more than a
    millisecond, so that it runs off the event loop. `default_channels` and `default_action` stand where the policy says nothing.
    A filter may define `applies(turn) -> bool`; where it says no it is neither called nor waited for in that turn.
    Findings that touch the end of a view that is not final may still be undone by what follows; the guard waits with them.
    """

    @property
    def name(self) -> str: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def reach(self) -> int: ...
    @property
    def heavy(self) -> bool: ...
    @property
    def default_channels(self) -> tuple[Channel, ...]: ...
    @property
    def default_action(self) -> Action: ...

    def __call__(self, view: View, /) -> Sequence[Finding]: ...

    def canary(self, channel: Channel, /) -> Canary: ...


EMPTY = Turn("", Example("", ()))


def canary_turn(**changes: Any) -> Turn:
    """A turn for a canary: nothing asked, but what is given."""
    return Turn("canary", **{"example": Example("canary", ()), **changes})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an API key as the gateway knows it (`keys.py`). `limits` and `disclosure` override the policy's where set."""

    id: str
    name: str = ""
    scopes: frozenset[str] = frozenset()
    policy: str = ""
    models: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    disclosure: Mapping[str, Any] = field(default_factory=dict)
