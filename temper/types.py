"""The nouns every part of temper speaks, and the protocols they pass through.

An `Example` is asked, a `Sampler` answers with a `Completion` (reasoning and answer kept apart, always), a `Grader` gives a
`Score`. Nothing here does work, and this file imports nothing of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]
Better = Literal["high", "low"]
CLASSES = ("harmful", "borderline", "benign", "reasoning")
"""The classes of prompts, in the order of what matters."""


class Outcome(StrEnum):
    """What became of one completion, before anybody judges its content; exactly one applies.

    ERROR: no completion came, after every retry. It is no behaviour of the model: not graded by any metric, counted and bounded.
    """

    ANSWERED = "answered"
    REFUSED = "refused"
    PARTIAL = "partial"
    TRUNCATED_IN_THOUGHT = "truncated_in_thought"
    TRUNCATED_IN_ANSWER = "truncated_in_answer"
    LOOP = "loop"
    EMPTY = "empty"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """What is asked, and where it came from.

    Messages that end with the assistant are a prefill: the model goes on from there (an open think tag makes it a prefilled
    thought). `goal` is the plain request behind a prompt that an attack or a rewrite disguised, "" where the last user turn is
    plain. `target` is a verifiable answer or a reference reply. `tags` holds at most one of `CLASSES`, plus free tags such as a
    category. `group` is shared by paraphrases, translations and twins: the unit that
    splits and bootstraps resample.
    """

    id: str
    messages: tuple[Message, ...]
    target: str | None = None
    tags: frozenset[str] = frozenset()
    source: str = ""
    license: str = ""
    language: str = "en"
    group: str = ""
    goal: str = ""

    @property
    def prompt(self) -> str:
        """What graders compare an answer with: the goal, or else the last user turn."""
        return self.goal or next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def prefill(self) -> str:
        """The beginning of the reply that the model is handed, "" without one."""
        return self.messages[-1].content if self.messages and self.messages[-1].role == "assistant" else ""

    @property
    def klass(self) -> str:
        """The class among its tags, "" where it has none."""
        return next((c for c in CLASSES if c in self.tags), "")


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of one completion. Tokens are counted by the policy's tokenizer; seconds are the sampler's, shared over its batch.

    `reasoning_tokens` are those of the completion that belong to the thought, None where nobody counted them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to one example; `reasoning` and `answer` are never joined.

    `finish` is `stop` (the model ended), `length` (the token cap cut it) or `error` (nothing came after every retry; `error` says
    why). A prefill is not part of `reasoning`, `answer` or `raw`: only what the model wrote is. `thought` is `none` (no think
    block at all), `closed`, or `open` (begun and never closed), so that a grader can tell an empty thought from a missing one;
    `raw` is the exact text that was generated. `facts` is what the sampler tells of how the answer came about, in JSON's types:
    turns realised, queries an attack spent, the guard's verdicts.
    """

    example: Example
    answer: str
    reasoning: str = ""
    finish: Literal["stop", "length", "error"] = "stop"
    thought: Literal["none", "closed", "open"] = "none"
    raw: str = ""
    usage: Usage | None = None
    error: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A grader's opinion. `value` is in [0, 1]; None means *not graded* and is never counted as zero."""

    value: float | None
    why: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's history. `at` is seconds since the epoch, `kind` a verb in the past tense."""

    at: float
    kind: str
    subject: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model: the folder of its base weights and, if it was trained, the adapter folder on top of them."""

    base: Path
    path: Path | None = None


class Sampler(Protocol):
    """Who answers. Returns n completions for each example, in the order of the examples."""

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]: ...


class Grader(Protocol):
    """Who has an opinion, in batches. Raises if it fails; abstains with `Score(None)` where it does not apply.

    A grader may carry the attribute `better` ("high", the default, or "low"): which end of its value is the good one. One with
    "low" is taken for a cost of harm unless its attribute `scope` is "all", as it is of those that judge form, or names the part
    it reads, "answer" or "think" (`rewards.scope`). `slow` says that it waits for a network, and so may be asked ahead. Each
    completion is judged by itself, whatever its batch.
    """

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]: ...


@dataclass(frozen=True, slots=True)
class Named:
    """A grader under the name a recipe uses, with the identity that keeps a reward from being its own judge.

    `identity` hashes the grader's code or class, its settings and its weights; `weights` is the hash of the weights alone ("" for
    rules); `inside` holds both of every grader and model within it (members of an ensemble, the judge behind a wrapper). All are
    written to `run.json`. `card` is one line of what was measured about it.
    """

    name: str
    grade: Grader
    identity: str
    weights: str = ""
    card: str = ""
    inside: frozenset[str] = frozenset()

    @property
    def better(self) -> Better:
        return getattr(self.grade, "better", "high")

    @property
    def slow(self) -> bool:
        return getattr(self.grade, "slow", False)

    @property
    def traces(self) -> frozenset[str]:
        """Every hash this grader is known by: two graders that share one share an opinion."""
        return frozenset({self.identity, self.weights, *self.inside}) - {""}


@dataclass(frozen=True, slots=True)
class Suite:
    """What is asked together. `of` is the suite it was made from, "" for one as it is published; `how` lists what was done to it
    (`rewrite:SPEC`, `attack:SPEC`, in order). `facts` are licence, revision and origin, in JSON's types.
    """

    name: str
    examples: tuple[Example, ...]
    of: str = ""
    how: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class Stage(Protocol):
    """One step of a recipe: reads a checkpoint, writes its own folder, returns the checkpoint it made."""

    def run(self, start: Checkpoint, out: Path) -> Checkpoint: ...
