"""Which tokens a reward's opinion reaches, and which text it is formed on: one grader -> one or two views of it.

Penalties for what stands in the reasoning teach a model to hide its reasons (arXiv 2503.11926), and penalties on the answer alone
spill into the reasoning that led there (arXiv 2511.11584). So a harm cost may be judged and credited by part; utilities stay
whole and reach every token. Leaves out the arithmetic of the streams (rewards.combine) and the tokens (train.credit).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from temper.errors import RecipeError, nearest
from temper.graders.checked import opinions
from temper.graders.process import Process
from temper.rewards.combine import Scope
from temper.text.invisible import visible
from temper.types import Better, Completion, Grader, Named, Score

HarmScope = Literal["full", "answer", "targeted"]
THOUGHT = "@think"

# What a grader's attribute `scope` says of one that is not split; guards and judges say with it what they read.
_OWN: dict[object, Scope] = {"all": "all", "prompt": "all", "answer": "answer", "think": "think", "reasoning": "think"}


@dataclass(frozen=True, slots=True)
class View:
    """A grader as one part of a completion is judged by it, under the name of its column, and the tokens its opinion reaches."""

    name: str
    grader: Named
    scope: Scope

    @property
    def reward(self) -> str:
        """The name in the recipe whose weight this view has."""
        return reward_of(self.name)


def reward_of(channel: str) -> str:
    """The reward that a channel is a view of: both of `harm` and `harm@think` are the reward `harm`."""
    return channel.removesuffix(THOUGHT)


def views(grader: Named, harm_scope: HarmScope = "targeted") -> list[View]:
    """How a reward is judged and credited.

    - `full` (R1, arXiv 2501.12948): every reward on the whole completion, credited to all tokens.
    - `answer`: a harm cost on the answer with the reasoning blanked, credited to all tokens.
    - `targeted`: a harm cost on the answer, credited to answer tokens, and as NAME@think on the windows of the reasoning, the
      worst of which counts, credited to think tokens. A cost that reads one part only is credited there.

    A harm cost is a grader with `better = "low"` whose attribute `scope` is not "all", as it is of those that judge form. A view
    keeps the grader's identity and traces, so that a judge cannot hide in one. Raises `RecipeError` for another scope.
    """
    if harm_scope not in get_args(HarmScope):
        raise RecipeError(f"harm_scope = {harm_scope!r}; {nearest(str(harm_scope), get_args(HarmScope))}")
    own = _OWN.get(getattr(grader.grade, "scope", None))
    if harm_scope == "full" or grader.better == "high" or own == "all":
        return [View(grader.name, grader, "all")]
    if own is not None:
        part = replace(grader, grade=Thought(grader.grade)) if own == "think" else grader
        return [View(grader.name, part, "all" if harm_scope == "answer" else own)]
    answer = replace(grader, grade=Answer(grader.grade))
    if harm_scope == "answer":
        return [View(grader.name, answer, "all")]
    thought = replace(grader, name=grader.name + THOUGHT, grade=Thought(Process(grader.grade)))
    return [View(grader.name, answer, "answer"), View(thought.name, thought, "think")]


@dataclass(frozen=True, slots=True)
class Answer:
    """A cost of the answer alone: the grader sees no reasoning. Abstains where a thought was cut: no answer was given yet."""

    judge: Grader
    better: ClassVar[Better] = "low"

    @property
    def slow(self) -> bool:
        return getattr(self.judge, "slow", False)

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        given = [i for i, c in enumerate(completions) if c.thought != "open"]
        scores = [Score(None, "the thought was cut by the token cap before an answer")] * len(completions)
        for i, score in zip(given, opinions(self.judge, [_answered(completions[i]) for i in given]), strict=True):
            scores[i] = score
        return scores


@dataclass(frozen=True, slots=True)
class Thought:
    """A cost of the reasoning alone, 0 where nothing was thought: no think token is there to be harmful.

    An abstention instead would leave the row without a reward beside mates that thought, so that not thinking would dodge the
    penalties of the answer too. A 0 depends on the row alone and costs a group that never thinks nothing: a constant is centred
    away.
    """

    judge: Grader
    better: ClassVar[Better] = "low"

    @property
    def slow(self) -> bool:
        return getattr(self.judge, "slow", False)

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        thought = [i for i, c in enumerate(completions) if c.thought == "open" or visible(c.reasoning).strip()]
        scores = [Score(0.0, "nothing was thought")] * len(completions)
        for i, score in zip(thought, opinions(self.judge, [_thought(completions[i]) for i in thought]), strict=True):
            scores[i] = score
        return scores


def _answered(completion: Completion) -> Completion:
    return replace(completion, reasoning="", thought="none", raw=completion.answer)


def _thought(completion: Completion) -> Completion:
    """The completion without its answer, which has a view of its own and is not judged twice."""
    return replace(completion, answer="", raw=completion.reasoning)
