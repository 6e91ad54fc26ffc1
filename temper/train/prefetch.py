"""Graders that wait for a network read each answer as soon as it has ended, while the others are still sampled.

What ends while they are busy is read at once in their next call. Opinions go into the cache (`rewards.cache`), where the step's
scoring finds them. Used where temper's own sampler draws the answers; an inference engine returns them all at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from torch import Tensor

from temper.models.generate import Sampled
from temper.types import Completion, Named

if TYPE_CHECKING:
    from temper.train.trainer import TemperTrainer

Draw = Callable[..., list[list[Sampled]]]


class Ahead:
    """The slow ones among `graders`, each with its opinions kept; one thread, so that a server sees one batch at a time."""

    def __init__(self, graders: Sequence[Named] = ()) -> None:
        self.slow = [g for g in graders if g.slow]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grading ahead")
        self._waiting: SimpleQueue[Completion] = SimpleQueue()
        self._begun: list[Future[None]] = []

    def read(self, completion: Completion) -> None:
        """Have it graded when the graders are free; returns at once."""
        if self.slow:
            self._waiting.put(completion)
            self._begun.append(self._thread.submit(self._grade))

    def wait(self) -> None:
        """Until all that was begun is done. Raises what a grader raised, the first one; what had not begun yet is dropped."""
        begun, self._begun = self._begun, []
        try:
            for part in begun:
                part.result()
        finally:
            for part in begun:
                part.cancel()
            self._drained()

    def _grade(self) -> None:
        if waiting := self._drained():
            for grader in self.slow:
                grader.grade(waiting)

    def _drained(self) -> list[Completion]:
        """All that waits by now, taken out: what ended during one call is the next call's batch."""
        found: list[Completion] = []
        while True:
            try:
                found.append(self._waiting.get_nowait())
            except Empty:
                return found


def sampled(trainer: "TemperTrainer", prompts: Sequence[Sequence[int]], uniforms: Tensor, draw: Draw) -> list[Sampled]:
    """One answer a row, `uniforms` (rows, tokens); where a grader is slow, each is handed to it as soon as it has ended."""

    def ended(row: int, ids: list[int]) -> None:
        [answer] = trainer.completions_of([trainer.asking[row]], [ids])
        trainer.ahead.read(answer)

    told = ended if trainer.ahead.slow else None
    return [row for [row] in draw(prompts, [1] * len(prompts), uniforms, told=told)]
