"""Whether reasoning and answer keep to the language of the prompt: R1's language consistency (arXiv 2501.12948), and mixing.

What every part means, where it comes from and how far off it is: docs/language.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from temper.text import mixing
from temper.text.asked import asked_for
from temper.text.language import SCRIPTS, Span, covered, spans
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class LanguageConsistency:
    """Words in the example's language over all words that bear a language, reasoning and answer together.

    Words in a language the prompt asks for ("answer in French") count as the example's, words quoted from the prompt do not
    count. `parts` holds the share of `reasoning` and `answer` apart and, under `reasoning.` and `answer.`, the metrics of mixing;
    each is None where there is no word to measure.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        wanted: dict[tuple[str, str], _Wanted | None] = {}
        scores = []
        for c in completions:
            key = (c.example.prompt, c.example.language)
            if key not in wanted:
                wanted[key] = _wanted(*key)
            scores.append(_score(c, wanted[key]))
        return scores


class _Wanted(NamedTuple):
    """The example's language, those the prompt asks for, and those that it is written in."""

    target: str
    asked: frozenset[str]
    used: frozenset[str]


# a prompt has several answers: samples, arms, the batches of a suite
@lru_cache(maxsize=1024)
def _wanted(prompt: str, language: str) -> _Wanted | None:
    target = covered(language)
    return _Wanted(target, asked_for(prompt), frozenset(s.language for s in spans(prompt, target))) if target else None


def _score(completion: Completion, wanted: _Wanted | None) -> Score:
    if wanted is None:
        return Score(None, f"language {completion.example.language!r} not covered; covered: {', '.join(sorted(SCRIPTS))}")
    prompt = completion.example.prompt
    reasoning = spans(completion.reasoning, wanted.target, exclude=prompt)
    answer = spans(completion.answer, wanted.target, exclude=prompt)
    parts = {**_parts("reasoning", reasoning, wanted), **_parts("answer", answer, wanted)}
    share = mixing.share([*reasoning, *answer], {wanted.target, *wanted.asked})
    return Score(share, "" if share is not None else "no word bears a language", parts)


def _parts(name: str, found: Sequence[Span], wanted: _Wanted) -> Mapping[str, float | None]:
    alone = found and all(s.language == found[0].language for s in found)
    return _parts_of_one(name, found, wanted) if alone else _parts_of_any(name, found, wanted)


def _parts_of_any(name: str, found: Sequence[Span], wanted: _Wanted) -> Mapping[str, float | None]:
    own = {wanted.target, *wanted.asked}
    return {
        name: mixing.share(found, own),
        f"{name}.asked": mixing.share(found, wanted.asked) if wanted.asked else None,
        f"{name}.cmi": mixing.cmi(found),
        f"{name}.corpus_cmi": mixing.corpus_cmi(mixing.lines(found)),
        f"{name}.m_index": mixing.m_index(found),
        f"{name}.i_index": mixing.i_index(found),
        f"{name}.entropy": mixing.entropy(found),
        f"{name}.burstiness": mixing.burstiness(found),
        f"{name}.line_pass": mixing.line_pass(found, own),
        f"{name}.word_pass": mixing.word_pass(found, own),
        f"{name}.unwarranted": mixing.unwarranted(found, own | wanted.used),
    }


def _parts_of_one(name: str, found: Sequence[Span], wanted: _Wanted) -> Mapping[str, float | None]:
    """The same of a text in one language, as nearly all are: it mixes nothing, and only its length and lines are looked at."""
    language, total = found[0].language, sum(s.words for s in found)
    own = {wanted.target, *wanted.asked}
    kept = float(language in own)
    judged = any(s.words >= mixing.MIN_LINE for s in found) or mixing.line_pass(found, own) is not None
    passed = kept if judged else None
    return {
        name: kept,
        f"{name}.asked": float(language in wanted.asked) if wanted.asked else None,
        f"{name}.cmi": 0.0,
        f"{name}.corpus_cmi": 0.0,
        f"{name}.m_index": 0.0,
        f"{name}.i_index": 0.0 if total > 1 else None,
        f"{name}.entropy": 0.0,
        f"{name}.burstiness": None,
        f"{name}.line_pass": passed,
        f"{name}.word_pass": kept if passed else None,
        f"{name}.unwarranted": (language not in own | wanted.used) / total,
    }
