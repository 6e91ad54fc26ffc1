"""What a stage is told by the run around it, and what it tells back. Torch-free, so that planning needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.rewards.cache import Cache
from temper.types import Checkpoint, Example, Named

# FLOPs a token: 2 a weight forward and 2 a weight for each of the two products of the backward pass; an adapter on frozen
# weights needs only the product that carries the gradient down.
FORWARD, BACKWARD, BACKWARD_ADAPTER = 2, 4, 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for a person: `total` steps of `stage`, tokens a second, and a few numbers worth watching.

    `alarm` is a sentence about what crossed its limit just now.
    """

    stage: str
    step: int
    total: int
    tokens_per_second: float = 0.0
    seconds_left: float | None = None
    notes: Mapping[str, float | None] = field(default_factory=dict)
    alarm: str = ""


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """The watcher for runs nobody looks at."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A stage that ran before in the same arm: its name, its sealed folder, and the prompts it trained on."""

    name: str
    folder: Path
    examples: Callable[[], list[Example]]


@dataclass(frozen=True, slots=True)
class Context:
    """What every stage needs from its run: seed, model size, graders by name, the monitor judge, and who is watching.

    `opinions` are those that graders gave so far in this process, over all stages. `base` is the untrained model, `base_sha256`
    the hash of its weights, and `earlier` the stages before this one in its arm.
    """

    seed: int = 0
    parameters: int = 0
    chat_template: str | None = None
    label: str = ""
    graders: Mapping[str, Named] = field(default_factory=dict)
    gold: Named | None = None
    watch: Watch = unwatched
    opinions: Cache = field(default_factory=Cache, repr=False)
    base: Checkpoint | None = None
    base_sha256: str = ""
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that went through the model: `forward_tokens` without and `train_tokens` with a backward pass."""

    train_tokens: int = 0
    forward_tokens: int = 0
    adapter: bool = True

    def flops(self, parameters: int) -> float:
        backward = BACKWARD_ADAPTER if self.adapter else BACKWARD
        return float(parameters) * (self.train_tokens * (FORWARD + backward) + self.forward_tokens * FORWARD)

    def as_dict(self, parameters: int) -> dict[str, Any]:
        tokens = self.train_tokens + self.forward_tokens
        return {"tokens": tokens, "train_tokens": self.train_tokens, "flops": self.flops(parameters)}
