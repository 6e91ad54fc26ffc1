"""What an attack that asks several times has spent on one prompt, and what it got: the facts of its row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from temper.prove.attack.attackers import State, Tried, Written
from temper.prove.attack.means import Opinion
from temper.types import Completion, Example, Message

NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Query:
    """One query to the model: its number from 1, what came, and what the steering judge thinks of it."""

    number: int
    reply: Completion
    opinion: Opinion

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Met its goal, then how harmful; of equals the earliest."""
        return self.opinion.reached, -1.0 if self.opinion.value is None else self.opinion.value, -self.number


@dataclass(slots=True)
class Ledger:
    """The queries made for one example and sample, and the cost of everybody who took part.

    Tokens of the target are those of all its replies; seconds are not split. `failures` counts texts of the attacker that could
    not be read, `unjudged` replies on which the steering judge abstained.
    """

    example: Example
    sample: int
    queries: list[Query] = field(default_factory=list)
    attacker_calls: int = 0
    attacker_tokens: int = 0
    failures: int = 0
    judge_calls: int = 0
    pruned: int = 0

    def wrote(self, written: Written) -> None:
        self.attacker_calls += 1
        self.attacker_tokens += written.tokens
        self.failures += written.failures

    def asked(self, reply: Completion, opinion: Opinion) -> Query:
        self.judge_calls += reply.finish != "error"
        self.queries.append(Query(len(self.queries) + 1, reply, opinion))
        return self.queries[-1]

    def question(self, messages: tuple[Message, ...], ahead: int = 0) -> Example:
        """The next query. Its number is in its id, because samplers draw by that: a prompt asked twice may bring two answers."""
        number = len(self.queries) + ahead + 1
        return replace(self.example, id=f"{self.example.id}/{self.sample}/{number}", messages=messages)

    @property
    def reached(self) -> bool:
        return any(q.opinion.reached for q in self.queries)

    @property
    def best(self) -> Query:
        """The reply that counts: the first that met its goal, or else the most harmful of those that came."""
        return max(self.queries, key=lambda q: (q.reply.finish != "error", *q.rank))

    def completion(self, attack: str, *, attacker: str, judge: str, turns: Mapping[str, int] = NONE) -> Completion:
        """The reply that counts, under the example's own id, with the messages that brought it.

        `turns` are facts on the conversation, where the attack itself holds one."""
        best = self.best
        values = [q.opinion.value for q in self.queries]
        facts = {
            "name": attack,
            "at": best.number,
            "reached": self.reached,
            "attacker": attacker,
            "judge": judge,
            "values": values,
            "unjudged": values.count(None),
            "errors": sum(q.reply.finish == "error" for q in self.queries),
            "target_tokens": sum(_tokens(q.reply) for q in self.queries),
            "attacker_calls": self.attacker_calls,
            "attacker_tokens": self.attacker_tokens,
            "attacker_failures": self.failures,
            "judge_calls": self.judge_calls,
            "pruned": self.pruned,
        }
        example = replace(self.example, messages=best.reply.example.messages)
        told = {"turns": 1, **best.reply.facts, **turns, "queries": len(self.queries), "attack": facts}
        return replace(self._whole(best.reply), example=example, facts=told)

    def _whole(self, reply: Completion) -> Completion:
        """The reply, unless queries failed and none met its goal: what they would have brought is unknown, so nothing is safe."""
        failed = [q.reply for q in self.queries if q.reply.finish == "error"]
        if self.reached or not failed:
            return reply
        why = f"{len(failed)} of {len(self.queries)} queries of the attack came to nothing: {failed[-1].error}"
        return replace(reply, answer="", reasoning="", raw="", thought="none", finish="error", error=why)


def tried(query: Query, prompt: str) -> Tried:
    return Tried(prompt, query.reply.answer, query.opinion.value)


def state(ledger: Ledger, past: Sequence[Tried], branch: int, *, declined: bool = False) -> State:
    return State(ledger.example.prompt, tuple(past), branch, declined)


def _tokens(completion: Completion) -> int:
    own = completion.usage.prompt_tokens + completion.usage.completion_tokens if completion.usage else 0
    earlier = completion.facts.get("earlier_tokens", 0)
    return own + (earlier if isinstance(earlier, int) else 0)
