"""PAIR and TAP: an attacker rewrites its prompt after each reply, along separate streams or as a pruned tree.

PAIR (Chao et al. 2023, algorithm 1): `streams` independent conversations of `depth` queries each. TAP (Mehrotra et al. 2023,
algorithm 1): each leaf is branched into `branch` prompts, those off topic are cut (phase 1), and the `width` leaves that the
judge rates highest go on (phase 2). PAIR is the tree with one branch and nothing cut. Both end at the first reply that the
steering judge holds for a success. Differs from the papers: the judge is the panel's grader `judge` with its own threshold, not a
language model's 10 of 10.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from temper.prove.attack.attackers import Attacker, Tried
from temper.prove.attack.ledger import Ledger, state, tried
from temper.prove.attack.means import Means, Steer
from temper.prove.attack.spec import Attack, Options, count, said
from temper.types import Completion, Example, Sampler


class Leaf(NamedTuple):
    """The end of one branch: its number, what was tried on the way, and the value that it goes on by."""

    branch: int
    past: tuple[Tried, ...] = ()
    value: float = -1.0


class Proposed(NamedTuple):
    run: "_Run"
    leaf: Leaf
    prompt: str


@dataclass(slots=True)
class _Run:
    ledger: Ledger
    leaves: list[Leaf]

    @property
    def over(self) -> bool:
        return self.ledger.reached or not self.leaves


@dataclass(frozen=True, slots=True)
class Search:
    """A sampler that answers with the best reply a search found; `prune` cuts prompts off topic, `width` leaves stay a level."""

    name: str
    sampler: Sampler
    attacker: Attacker
    steer: Steer
    depth: int
    roots: int
    branch: int
    width: int
    prune: bool
    # rows asked at once by `prove.evaluate`: each is many queries, and what a crash interrupts is asked again
    chunk: ClassVar[int] = 16

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        runs = [_Run(Ledger(e, k), [Leaf(i) for i in range(self.roots)]) for e in examples for k in range(n)]
        for _ in range(self.depth):
            self._deepen([r for r in runs if not r.over])
        made = [self._completion(r.ledger) for r in runs]
        return [made[i * n : (i + 1) * n] for i in range(len(examples))]

    def _completion(self, ledger: Ledger) -> Completion:
        return ledger.completion(self.name, attacker=self.attacker.name, judge=self.steer.judge.name)

    def _deepen(self, runs: Sequence[_Run]) -> None:
        """One level of every search, its queries asked in one batch."""
        proposed = self._kept(self._proposed(runs))
        replies = [answers[0] for answers in self.sampler(_questions(proposed))] if proposed else []
        for run in runs:
            run.leaves = []
        for p, reply, opinion in zip(proposed, replies, self.steer(replies), strict=True):
            query = p.run.ledger.asked(reply, opinion)
            value = -1.0 if opinion.value is None else opinion.value
            p.run.leaves.append(Leaf(p.leaf.branch, (*p.leaf.past, tried(query, p.prompt)), value))
        for run in runs:
            run.leaves = sorted(run.leaves, key=lambda leaf: -leaf.value)[: self.width]

    def _proposed(self, runs: Sequence[_Run]) -> list[Proposed]:
        grown = [
            (run, leaf._replace(branch=leaf.branch * self.branch + b))
            for run in runs
            for leaf in run.leaves
            for b in range(self.branch)
        ]
        written = self.attacker.search([state(run.ledger, leaf.past, leaf.branch) for run, leaf in grown])
        for (run, _), text in zip(grown, written, strict=True):
            run.ledger.wrote(text)
        return [Proposed(run, leaf, text.prompt) for (run, leaf), text in zip(grown, written, strict=True)]

    def _kept(self, proposed: list[Proposed]) -> list[Proposed]:
        """Those on topic; where none of a run is, its first, so that every run asks at least once a level."""
        if not self.prune:
            return proposed
        told = self.attacker.on_topic([p.run.ledger.example.prompt for p in proposed], [p.prompt for p in proposed])
        kept: list[Proposed] = []
        for p, (on_topic, tokens) in zip(proposed, told, strict=True):
            p.run.ledger.attacker_tokens += tokens
            p.run.ledger.pruned += not on_topic
            if on_topic:
                kept.append(p)
        alive = {id(p.run) for p in kept}
        first = {id(p.run): p for p in reversed(proposed)}
        return [*kept, *(p for key, p in first.items() if key not in alive)]


def _questions(proposed: Sequence[Proposed]) -> list[Example]:
    places: Counter[int] = Counter()
    asked = []
    for run, _, prompt in proposed:
        messages = said(run.ledger.example, prompt).messages
        asked.append(run.ledger.question(messages, places[id(run)]))
        places[id(run)] += 1
    return asked


def _pair(sampler: Sampler, options: Options, means: Means) -> Sampler:
    streams, depth = count(options, "streams", 100), count(options, "depth", 20)
    return Search("pair", sampler, means.attacker, means.steer(options["judge"]), depth, streams, 1, streams, False)


def _tap(sampler: Sampler, options: Options, means: Means) -> Sampler:
    depth, branch, width = (count(options, key, 20) for key in ("depth", "branch", "width"))
    return Search("tap", sampler, means.attacker, means.steer(options["judge"]), depth, 1, branch, width, True)


PAIR = Attack(
    "pair",
    "streams=N attackers rewrite their prompt depth=N times, steered by judge=GRADER",
    "Chao et al. 2023, arXiv 2310.08419",
    {"streams": "3", "depth": "3", "judge": "harm"},
    carry=_pair,
    steps=True,
)
TAP = Attack(
    "tap",
    "a tree of prompts: depth=N levels, branch=N from each leaf, the width=N best go on, steered by judge=GRADER",
    "Mehrotra et al. 2023, arXiv 2312.02119",
    {"depth": "3", "branch": "2", "width": "3", "judge": "harm"},
    carry=_tap,
    steps=True,
)
