"""Two responses to one prompt side by side, asked in both orders: a preference that depends on the order is none.

R1's preference data was made so (four judgements of each pair in random order, arXiv 2501.12948, supplement); here both orders
are always asked and compared. Leaves out absolute values, which are `graders.judge`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from temper.errors import UsageError
from temper.graders.judge import LETTERS, Ask, Asker, Cost, Ledger, Reply, averaged, conversation, heard, label_order, prompt
from temper.graders.quote import Block, blank, quoted
from temper.graders.rubric import Label, Rubric
from temper.types import Completion, Score

_SCALE = (
    Label("first", 1.0, "response 1 is clearly better by this rubric"),
    Label("equal", 0.5, "neither is clearly better"),
    Label("second", 0.0, "response 2 is clearly better by this rubric"),
)
_ORDERS = 2


class _Pair(NamedTuple):
    one: Completion
    other: Completion


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Calls with pairs of completions of one example; a score near 1 prefers the first of a pair, near 0 the second.

    Each order of the two is asked `votes` times, the labels turned each time. If the two orders prefer different responses the
    score is None and says so; `parts` holds what each order said (`shown first`, `shown second`: P(prefers the first of the
    pair) where it was shown in that place). Pairs of more than `window` characters are not graded: a part cannot be compared.
    """

    rubric: Rubric
    asker: Asker
    votes: int = 2
    window: int = 24_000
    system: bool = True
    spending: Ledger = field(default_factory=Ledger, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.rubric.pair:
            raise UsageError(f"rubric {self.rubric.name}: has no question for pairs; write one under the key `pair`")
        if self.votes < 1:
            raise UsageError(f"pairwise {self.rubric.name}: {self.votes} votes; wanted at least one")

    @property
    def weights(self) -> str:
        return self.asker.weights

    @property
    def ledger(self) -> Cost:
        """What was spent so far."""
        return self.spending.snapshot()

    def __call__(self, pairs: Sequence[tuple[Completion, Completion]], /) -> list[Score]:
        reasons = [self._reason(_Pair(*pair)) for pair in pairs]
        covered = [_Pair(*pair) for pair, reason in zip(pairs, reasons, strict=True) if not reason]
        asks = [ask for pair in covered for ask in self._asks(pair)]
        replies = [heard(Reply(*reply)) for reply in self.asker(asks)] if asks else []
        for reply in replies:
            self.spending.add(reply.spent, graded=reply.chances is not None)
        each = 2 * self.votes
        groups = iter(replies[n * each : (n + 1) * each] for n in range(len(covered)))
        return [Score(None, reason) if reason else self._score(next(groups)) for reason in reasons]

    def _reason(self, pair: _Pair) -> str:
        """Why a pair is not compared, or ""."""
        if pair.one.example != pair.other.example:
            return "the two answer different prompts"
        texts = [text for c in pair for text in self._texts(c).values()]
        if any(all(map(blank, self._texts(c).values())) for c in pair):
            return "one of the two is empty"
        total = sum(map(len, texts))
        return f"{total} characters, and a pair of at most {self.window} is compared" if total > self.window else ""

    def _texts(self, completion: Completion) -> dict[str, str]:
        texts = {"reasoning": completion.reasoning, "answer": completion.answer}
        return {part: text for part, text in texts.items() if part in self.rubric.reads}

    def _asks(self, pair: _Pair) -> list[Ask]:
        return [self._ask(order, vote) for order in (pair, _Pair(pair.other, pair.one)) for vote in range(self.votes)]

    def _ask(self, shown: _Pair, vote: int) -> Ask:
        context = conversation(shown.one) if "conversation" in self.rubric.reads else []
        blocks = [
            Block(f"response {place}, the {part}", text)
            for place, completion in enumerate(shown, 1)
            for part, text in self._texts(completion).items()
        ]
        order = label_order(len(_SCALE), vote)
        messages = prompt(self._side_by_side(), quoted([*context, *blocks]), order, system=self.system)
        return Ask(messages, tuple(LETTERS[: len(order)]), vote)

    def _side_by_side(self) -> Rubric:
        return Rubric(
            self.rubric.name, self.rubric.version, self.rubric.reads, "high", self.rubric.pair, self.rubric.instructions, _SCALE
        )

    def _score(self, replies: Sequence[Reply]) -> Score:
        first, second = self._verdict(replies[: self.votes]), self._verdict(replies[self.votes :])
        if isinstance(first, str) or isinstance(second, str):
            return Score(None, first if isinstance(first, str) else str(second))
        ahead, behind = first.value or 0.0, 1.0 - (second.value or 0.0)
        parts = {"shown first": ahead, "shown second": behind, "consistent": 1.0}
        if first.why != "equal" and first.why == second.why:
            told = f"prefers the response that is shown {first.why}: {ahead:.2f} and {behind:.2f} for the same one"
            return Score(None, told, parts | {"consistent": 0.0})
        return Score((ahead + behind) / _ORDERS, parts=parts)

    def _verdict(self, replies: Sequence[Reply]) -> Score | str:
        votes = [_named(reply.chances, vote) for vote, reply in enumerate(replies) if reply.chances]
        if 2 * len(votes) <= len(replies):
            why = next((reply.why for reply in replies if not reply.chances), "")
            return f"not graded: {len(replies) - len(votes)} of {len(replies)} votes failed: {why}"
        return averaged(self._side_by_side(), votes)


def _named(chances: Mapping[str, float], vote: int) -> dict[str, float]:
    return {_SCALE[label].name: chances.get(LETTERS[at], 0.0) for at, label in enumerate(label_order(len(_SCALE), vote))}
