"""Conversations in which the model answers every turn: user turns are given, its own replies stand between them.

Messages with two user turns in a row are such a conversation. Turns asserted are turns realised: a runner that asks once and
calls it multi-turn is the commonest fault of such benchmarks (deepteam#121).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from temper.errors import ProofError
from temper.files import digest
from temper.types import Completion, Example, Message, Sampler

Key = tuple[str, int, tuple[Message, ...]]


def steps(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """What is said at each turn: everything up to a user turn that another one follows, and at last the rest."""
    cuts = [i + 1 for i, (m, after) in enumerate(itertools.pairwise(messages)) if m.role == after.role == "user"]
    return [tuple(messages[a:b]) for a, b in zip([0, *cuts], [*cuts, len(messages)], strict=True)]


def conversing(sampler: Sampler, examples: Sequence[Example]) -> Sampler:
    """The sampler, holding conversations if any of the examples is one."""
    return Conversing(sampler) if any(len(steps(e.messages)) > 1 for e in examples) else sampler


@dataclass(frozen=True, slots=True)
class Conversing:
    """A sampler that realises each conversation turn by turn, all of a batch at once; the thought of a reply is not said again.

    A completion is the reply to the last turn. Its example holds the messages as they were realised, `facts["turns"]` their
    number, `facts["earlier_tokens"]` what the turns before the last took where no other row asked them. Examples of one group
    that begin with the same turns share the replies to them, so that a suite with a row for each turn of a dialogue asks no turn
    twice. A turn that brings no reply ends its conversation with that error. Raises `ProofError` if fewer turns were realised
    than declared.
    """

    sampler: Sampler
    # replies by (group, sample number, everything asked so far)
    said: dict[Key, Completion] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        talks = [_Talk(e, k, steps(e.messages)) for e in examples for k in range(n)]
        for turn in range(max((len(t.steps) for t in talks), default=0)):
            self._take([t for t in talks if turn < len(t.steps) and not t.ended])
        made = [t.completion() for t in talks]
        return [made[i * n : (i + 1) * n] for i in range(len(examples))]

    def _take(self, talks: "Sequence[_Talk]") -> None:
        """The next turn of each conversation; equal ones are asked once."""
        for talk in talks:
            talk.messages += talk.steps[len(talk.replies)]
        new = {t.key: t for t in reversed(talks) if t.key not in self.said}
        replies = self.sampler([t.question() for t in new.values()]) if new else []
        for talk, reply in zip(new.values(), replies, strict=True):
            self.said[talk.key] = reply[0]
            talk.earlier += _tokens(reply[0]) if len(talk.replies) + 1 < len(talk.steps) else 0
        for talk in talks:
            talk.replies.append(self.said[talk.key])
            if len(talk.replies) < len(talk.steps):
                talk.messages += (Message("assistant", talk.replies[-1].answer),)


@dataclass(slots=True)
class _Talk:
    """One conversation under way: `messages` as said so far, `replies` of the model, tokens of `earlier` turns asked for it."""

    example: Example
    sample: int
    steps: list[tuple[Message, ...]]
    messages: tuple[Message, ...] = ()
    replies: list[Completion] = field(default_factory=list)
    earlier: int = 0

    @property
    def key(self) -> Key:
        return self.example.group or self.example.id, self.sample, self.messages

    @property
    def ended(self) -> bool:
        return bool(self.replies) and self.replies[-1].finish == "error"

    def question(self) -> Example:
        group, sample, messages = self.key
        # a sampler draws by the id: equal beginnings must draw the same reply whichever row asks them
        name = f"{group}/{digest([[m.role, m.content] for m in messages])}/{sample}"
        return replace(self.example, id=name, messages=messages, goal="")

    def completion(self) -> Completion:
        last, turns = self.replies[-1], len(self.replies)
        if turns < len(self.steps) and not self.ended:
            raise ProofError(f"example {self.example.id!r}: {turns} turns were realised of {len(self.steps)} declared")
        told = {"turns": turns, "declared_turns": len(self.steps)} | ({"earlier_tokens": self.earlier} if self.earlier else {})
        return replace(last, example=replace(self.example, messages=self.messages), facts={**last.facts, **told})


def _tokens(reply: Completion) -> int:
    return reply.usage.prompt_tokens + reply.usage.completion_tokens if reply.usage else 0
