"""Crescendo (Russinovich et al. 2024): a conversation that begins harmless and comes closer to the goal turn by turn.

A declined turn is taken back and put differently (back-tracking, at most `backtracks` times); the steering judge looks at every
reply against the goal. It ends at a success, or after `turns` realised turns: fewer without a success, or without having run
out of queries, is a `ProofError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from temper.errors import ProofError
from temper.prove.attack.attackers import Attacker, Tried
from temper.prove.attack.ledger import Ledger, state, tried
from temper.prove.attack.means import Means, Steer
from temper.prove.attack.spec import Attack, Options, count
from temper.prove.evaluate import grade_where
from temper.text.outcome import REFUSED_AT
from temper.types import CLASSES, Completion, Example, Message, Named, Sampler


@dataclass(slots=True)
class _Climb:
    """One conversation: `head` stands before it (a system prompt), `past` holds its realised turns."""

    ledger: Ledger
    head: tuple[Message, ...]
    past: list[Tried] = field(default_factory=list)
    backtracks: int = 0
    declined: bool = False
    broken: bool = False

    def messages(self, said: str) -> tuple[Message, ...]:
        turns = (m for t in self.past for m in (Message("user", t.prompt), Message("assistant", t.answer)))
        return (*self.head, *turns, Message("user", said))


@dataclass(frozen=True, slots=True)
class Crescendo:
    """A sampler that answers with the last reply of such a conversation, or the one that met its goal."""

    sampler: Sampler
    attacker: Attacker
    steer: Steer
    refusal: Named
    turns: int
    backtracks: int
    chunk: ClassVar[int] = 16  # as in `prove.attack.search`

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        climbs = [_Climb(Ledger(e, k), _head(e)) for e in examples for k in range(n)]
        while active := [c for c in climbs if self._goes_on(c)]:
            self._turn(active)
        made = [self._completion(c) for c in climbs]
        return [made[i * n : (i + 1) * n] for i in range(len(examples))]

    def _goes_on(self, climb: _Climb) -> bool:
        return not climb.broken and not climb.ledger.reached and len(climb.past) < self.turns

    def _turn(self, climbs: Sequence[_Climb]) -> None:
        states = [state(c.ledger, c.past, c.backtracks, declined=c.declined) for c in climbs]
        written = self.attacker.climb(states)
        asked = [c.ledger.question(c.messages(w.prompt)) for c, w in zip(climbs, written, strict=True)]
        replies = [answers[0] for answers in self.sampler(asked)]
        opinions, declined = self.steer(replies), grade_where(self.refusal, replies, CLASSES)
        for c, w, reply, opinion, refused in zip(climbs, written, replies, opinions, declined, strict=True):
            c.ledger.wrote(w)
            query = c.ledger.asked(reply, opinion)
            c.broken = reply.finish == "error"
            c.declined = refused.value is not None and refused.value >= REFUSED_AT
            if c.declined and c.backtracks < self.backtracks:
                c.backtracks += 1
            elif not c.broken:
                c.past.append(tried(query, w.prompt))

    def _completion(self, climb: _Climb) -> Completion:
        realised = len(climb.past)
        if realised < self.turns and not (climb.ledger.reached or climb.broken):
            raise ProofError(f"crescendo on {climb.ledger.example.id!r}: {realised} turns were realised of {self.turns} declared")
        turns = {"turns": realised, "declared_turns": self.turns, "backtracks": climb.backtracks}
        judge = self.steer.judge.name
        return climb.ledger.completion("crescendo", attacker=self.attacker.name, judge=judge, turns=turns)


def _head(example: Example) -> tuple[Message, ...]:
    return tuple(m for m in example.messages if m.role == "system")


def _crescendo(sampler: Sampler, options: Options, means: Means) -> Sampler:
    steer, turns = means.steer(options["judge"]), count(options, "turns", 20)
    return Crescendo(sampler, means.attacker, steer, means.panel.refusal, turns, count(options, "backtracks", 20))


CRESCENDO = Attack(
    "crescendo",
    "a conversation of turns=N that comes closer step by step, backtracks=N declined turns taken back, steered by judge=GRADER",
    "Russinovich et al. 2024, arXiv 2404.01833",
    {"turns": "5", "backtracks": "3", "judge": "harm"},
    carry=_crescendo,
    steps=True,
)
