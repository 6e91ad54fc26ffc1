"""Opinions kept by grader and text: within a process no grader is asked twice about the same answer.

A grader judges each answer by itself (`types.Grader`), so an opinion may be used again in any later batch, step or stage. One
whose opinion of an answer depends on the rest of its batch breaks that contract and would be frozen here.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from temper.files import dumps
from temper.rewards.signal import grade
from temper.types import Better, Completion, Example, Named, Score

MOST = 32_768
"""Opinions kept at once, about a kilobyte each: a hundred steps of 64 answers and five graders."""

Key = tuple[str, bytes]


@dataclass(slots=True)
class Cache:
    """At most `most` opinions; the one that was used longest ago goes first. Safe to share between threads."""

    most: int = MOST
    _kept: OrderedDict[Key, Score] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self._kept)

    def found(self, keys: Iterable[Key]) -> dict[Key, Score]:
        """The opinions there are; what is returned stays with the caller, whatever goes from here meanwhile."""
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        return known

    def keep(self, opinions: Mapping[Key, Score]) -> None:
        with self._lock:
            self._kept.update(opinions)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A grader that is asked once about each answer.

    An abstention is an opinion and is kept, but not that of a grader behind a network, where it may be an outage: that one is
    asked again. An error is no opinion: it is raised, and nothing of its batch is kept.
    """

    grader: Named
    cache: Cache

    @property
    def better(self) -> Better:
        return self.grader.better

    @property
    def scope(self) -> str | None:
        return getattr(self.grader.grade, "scope", None)

    @property
    def slow(self) -> bool:
        return self.grader.slow

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        keys = [(self.grader.identity, text_digest(c)) for c in completions]
        known = self.cache.found(keys)
        new = {key: c for key, c in zip(keys, completions, strict=True) if key not in known}
        if new:
            fresh = dict(zip(new, grade(self.grader, list(new.values())), strict=True))
            self.cache.keep({k: s for k, s in fresh.items() if s.value is not None or not self.slow})
            known |= fresh
        return [known[key] for key in keys]


def remembering(grader: Named, cache: Cache) -> Named:
    """The grader under its own name and identity, with its opinions kept in `cache`."""
    return replace(grader, grade=Remembered(grader, cache))


def text_digest(completion: Completion) -> bytes:
    """SHA-256 of all that a grader may read of a completion: the example with its tags and target, and the answer in parts."""
    c = completion
    told = dumps([c.raw, c.reasoning, c.answer, c.finish, c.thought])
    return hashlib.sha256(_example_digest(c.example) + told.encode("utf-8", "surrogatepass")).digest()


@lru_cache(maxsize=4096)
def _example_digest(example: Example) -> bytes:
    e = example
    asked = [[m.role, m.content] for m in e.messages]
    told = dumps([e.id, asked, e.target, sorted(e.tags), e.source, e.language, e.group])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()
