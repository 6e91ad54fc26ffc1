"""Not one banned phrase leaves a release, in whole or in part, however it is cut, hidden or wrapped; and clean text is not touched."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.serve.fold import back, fold
from temper.serve.guard import Guard
from temper.serve.policy import ChannelPolicy, Policy, Setting
from temper.serve.release import Delta, Release
from temper.serve.verdict import EMPTY, OUTPUT, Action, Canary, Channel, Finding, View, canary_turn

PHRASES = ("forbidden fruit", "zeppelin", "crème brûlée", "красная кнопка", "禁じられた", "x9!kq")
CASES = 10_000


@dataclass(frozen=True, slots=True)
class Phrases:
    """Finds phrases in folded text: the simplest filter that there is."""

    phrases: tuple[str, ...] = PHRASES
    name = "phrases"
    pace = "window"
    heavy = False
    default_channels = OUTPUT
    default_action = Action.BLOCK

    @property
    def reach(self) -> int:
        return max(len(fold(p).text) for p in self.phrases)

    def __call__(self, view: View, /) -> Sequence[Finding]:
        escapes = view.channel is Channel.TOOL_ARGS
        at = back(view.text, view.fresh, self.reach, escapes=escapes)
        folded = fold(view.text[at:], escapes=escapes)
        found = []
        for phrase in self.phrases:
            wanted = fold(phrase).text
            place = folded.text.find(wanted)
            while place >= 0:
                start, end = folded.span(place, place + len(wanted))
                if at + end >= view.fresh:
                    found.append(Finding(self.name, phrase, start=at + start, end=at + end))
                place = folded.text.find(wanted, place + 1)
        return found

    def canary(self, channel: Channel, /) -> Canary:
        return Canary(self.phrases[0], canary_turn())


def guard(action: Action = Action.BLOCK, mode: str = "window", **treats: str) -> Guard:
    channels = {c: ChannelPolicy(policy=treats.get(str(c), "filter"), mode=mode) for c in Channel}  # type: ignore[arg-type]
    return Guard(Policy(name="t", version="t", filters=(Setting("phrases", "phrases", Phrases(), OUTPUT, action),), channels=channels))


GUARDS = {mode: guard(mode=mode) for mode in ("window", "strict")}
WORDS = "the of a river, stone\n\nwalks über Ωmega дом слово 水 火。 ﬁn 12.5 (so) **bold** `code` e\u0301t ok. forbidden fru zepp ".split(" ")


def text_of(rng: random.Random, length: int) -> str:
    made = ""
    while len(made) < length:
        made += rng.choice(WORDS) + " "
    return made[:length]


def cut(rng: random.Random, text: str) -> list[str]:
    if rng.random() < 0.05:
        return list(text)
    places = sorted({0, len(text), *(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 12)))})
    return [text[a:b] for a, b in pairwise(places)]


def disguised(rng: random.Random, phrase: str) -> str:
    how = rng.randrange(6)
    if how == 1:
        return phrase.upper()
    if how == 2:
        return "\u200b".join(phrase)
    if how == 3:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in phrase)
    if how == 4:
        return phrase.replace(" ", " " * rng.choice((2, 20, 300))).replace("e", "e\u2060")
    if how == 5:
        return " " + phrase.replace("o", "о").replace("e", "е") + " "  # Cyrillic letters, in a word of its own
    return phrase


def escaped(rng: random.Random, text: str) -> str:
    how = rng.randrange(3)
    body = "".join(f"\\u{ord(c):04x}" for c in text) if how == 0 and ord(max(text)) < 0x10000 else json.dumps(text, ensure_ascii=how == 1)[1:-1]
    return body


def deltas(rng: random.Random, way: str, text: str) -> list[Delta]:
    if way == "tags":
        opener = rng.choice(("<think>", "<think>\n", "\n<THINK>"))
        return [Delta(0, Channel.CONTENT, piece) for piece in cut(rng, f"{opener}{text}</think>\nDone.")]
    if way == "tool_args":
        pieces = cut(rng, text)
        return [Delta(0, Channel.TOOL_ARGS, p, 0, "search" if i == 0 else "", "c1" if i == 0 else "") for i, p in enumerate(pieces)]
    return [Delta(0, Channel(way), piece) for piece in cut(rng, text)]


async def released(release: Release, pieces: Sequence[Delta]) -> list[Delta]:
    out: list[Delta] = []
    for delta in pieces:
        if release.feed(delta):
            out += await release.scan()
    return out + await release.end()


def channel_of(way: str) -> Channel:
    return Channel.REASONING if way == "tags" else Channel(way)


def joined(out: Sequence[Delta], channel: Channel) -> str:
    return "".join(d.text for d in out if d.channel is channel)


async def leaks(rng: random.Random, cases: int) -> tuple[int, int]:
    """How many cases were stopped, and how many were clean."""
    stopped = clean = 0
    for case in range(cases):
        way = ("content", "reasoning", "tags", "tool_args")[case % 4]
        mode = ("window", "strict")[case // 4 % 2]
        escapes = way == "tool_args"
        before, after = text_of(rng, rng.randrange(0, 330)), text_of(rng, rng.randrange(0, 160))
        bad = case % 5 != 0
        phrase = disguised(rng, rng.choice(PHRASES)) if bad else ""
        parts = [escaped(rng, p) if p else p for p in (before, phrase, after)] if escapes else [before, phrase, after]
        if escapes:
            parts = ['{"q": "' + parts[0], parts[1], parts[2] + '"}']
        release = Release(GUARDS[mode], EMPTY)
        out = await released(release, deltas(rng, way, "".join(parts)))
        text = joined(out, channel_of(way))
        if bad:
            assert release.stopped is Action.BLOCK, (case, way, mode, parts[1], parts[0][-20:])
            assert parts[0].startswith(text) or parts[0].lstrip().startswith(text), (case, text, parts)
            stopped += 1
        else:
            wanted = "".join(parts)
            assert release.stopped is None
            assert text == (wanted.strip() if way == "tags" else wanted), (case, text, wanted)
            assert release.scanned >= release.released
            clean += 1
    return stopped, clean


def test_a_hundred_thousand_phrases_at_every_place_do_not_leak() -> None:
    stopped, clean = asyncio.run(leaks(random.Random(7), CASES))
    assert (stopped, clean) == (CASES * 4 // 5, CASES // 5)
