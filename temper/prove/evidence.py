"""All rows of all arms, and what a reader of them has to know: what every analysis of a proof is handed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from temper.files import Row
from temper.types import Better

REWRITE, ATTACK = "rewrite:", "attack:"
"""How an entry of a row's `how` begins."""
APART = frozenset({"multi-turn", "context", "agentic"})
"""Bundled suites whose prompts are turns, twins or tool tasks: told by analyses of their own, and no part of a pooled rate."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """`rows` by arm, in the order of the arms, the first being the one that others are compared with; rewritten and attacked
    suites among them. `gold` and `proxy` name the judge and the reward's own opinion; `held_out` are categories that no training
    data holds; `graders` the user's own with their good end; `overlap` says, by suite, what also stands in training data; `costs`
    what each arm took; `likelihoods` hold by arm what `posix.likelihoods` wrote, empty without log-probabilities.
    """

    rows: Mapping[str, Sequence[Row]]
    gold: str = "gold"
    proxy: str = "harm"
    held_out: tuple[str, ...] = ()
    graders: Mapping[str, Better] = field(default_factory=lambda: MappingProxyType({}))
    overlap: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    costs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    likelihoods: Mapping[str, Sequence[Row]] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0

    def where(self, wanted: Callable[[Row], bool]) -> "Evidence":
        """The same with some rows only; every arm stays, also one without rows."""
        return replace(self, rows={arm: [row for row in rows if wanted(row)] for arm, rows in self.rows.items()})

    @property
    def plain(self) -> "Evidence":
        """Suites as they are."""
        return self.where(lambda row: not row.get("how"))

    @property
    def pooled(self) -> "Evidence":
        """Plain suites that a rate may be pooled over: without those `APART`, unless a proof asked nothing else."""
        rest = self.plain.where(lambda row: row["suite"] not in APART)
        return rest if any(rest.rows.values()) else self.plain

    @property
    def rewritten(self) -> "Evidence":
        """Rewritten suites that nobody attacked, without the plain ones."""
        return self.where(lambda row: bool(row.get("how")) and all(h.startswith(REWRITE) for h in row["how"]))

    @property
    def attacked(self) -> "Evidence":
        """Attacked suites, rewritten or not."""
        return self.where(lambda row: any(h.startswith(ATTACK) for h in row.get("how", ())))
