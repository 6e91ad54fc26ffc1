"""Whether a model keeps to the language it was asked in, or was told to write in: thoughts and answer, span by span.

A span is a run of words of one language in one line (text.language); code, formulas, addresses, names, numbers and the user's own
words are in none, and a span of few words is not judged. R1 is known to think in another language than it answers in, and to mix
the two (arXiv 2501.12948). Leaves out what is done about it: by default a finding is written down.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from temper.errors import PolicyError
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, Turn, View, canary_turn
from temper.types import Example, Message

LINE = 1000
"""Characters before what is new at which a line that has no end is cut."""
PROMPT = 4000
"""Characters of the request in which its language is looked for."""
USED = 0.2
"""A language with at least this share of the request's words may be used in the answer too."""
MIXED = 0.2
"""Share of a whole text that may be in other languages, in spans that are each too short to be judged."""
NAMES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip
_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Language:
    """A finding for each span of `words` words or more (characters, in Chinese and Japanese) that is not in the target language.

    The target is the turn's, or else that of the request; a request in no known language has none. With `asked`, languages the
    request asks for ("answer in French", a translation) are targets too. Many short spans are one finding, at the end of a text.
    Raises `PolicyError` for fewer words than 1.
    """

    name: ClassVar[str] = "language"
    pace: ClassVar[Pace] = "sentence"
    heavy: ClassVar[bool] = True
    reach: ClassVar[int] = 0
    default_channels: ClassVar[tuple[Channel, ...]] = (Channel.REASONING, Channel.CONTENT)
    default_action: ClassVar[Action] = Action.ALLOW

    words: int = 8
    asked: bool = True

    def __post_init__(self) -> None:
        if self.words < 1:
            raise PolicyError(f"words = {self.words}; wanted 1 or more, such as 8")

    def __call__(self, view: View, /) -> Sequence[Finding]:
        from temper.text.language import spans

        prompt = view.turn.example.prompt
        wanted = _wanted(prompt[:PROMPT], view.turn.language, self.asked)
        if not wanted.target:
            return ()
        at = 0 if view.final else _start(view.text, view.fresh)
        held = spans(view.text[at:], wanted.target, exclude=prompt[:PROMPT])
        foreign = [s for s in held if s.language not in wanted.allowed]
        found = [
            Finding(self.name, s.language, "language", start=at + s.start, end=at + s.end, why=_why(s.words, s.language, wanted))
            for s in foreign
            if s.words >= self.words and at + s.end > view.fresh
        ]
        short = Counter[str]()
        for s in foreign:
            short[s.language] += s.words
        if view.final and not found and max(self.words, MIXED * sum(s.words for s in held)) <= short.total():
            most, _ = short.most_common(1)[0]
            found = [Finding(self.name, "mixed", "language", why=_why(short.total(), most, wanted))]
        return found

    def canary(self, channel: Channel, /) -> Canary:
        text = "Der Zug nach Hamburg fährt heute leider erst eine Stunde später, weil ein Signal gestört ist."
        turn = canary_turn(example=Example("canary", (Message("user", "When does the train to the coast leave today?"),)))
        return Canary(text, turn)


class Wanted(NamedTuple):
    """The language to write in, "" where none is known, and all that are allowed."""

    target: str
    allowed: frozenset[str]


@lru_cache(maxsize=1024)
def _wanted(prompt: str, language: str, asked: bool) -> Wanted:
    from temper.text.asked import asked_for
    from temper.text.language import covered, spans

    named = asked_for(prompt) if asked else frozenset[str]()
    if language:
        return Wanted(covered(language), frozenset({covered(language), *named}))
    counts = Counter[str]()
    for s in spans(prompt):
        counts[s.language] += s.words
    if not counts:
        return Wanted("", frozenset())
    used = {code for code, n in counts.items() if n >= USED * counts.total()}
    return Wanted(counts.most_common(1)[0][0], frozenset({*used, *named}))


def spoken(filter: Language, turn: Turn, found: Mapping[str, int], length: int) -> str:
    """The language of a text of so many characters in which the filter found so many in other languages: the wanted one, or
    another that most of it is in; "" where no language is wanted. Cheap after the filter has read the text.
    """
    other = max(found, key=found.__getitem__, default="")
    most = other in NAMES and 2 * found[other] > length
    return other if most else _wanted(turn.example.prompt[:PROMPT], turn.language, filter.asked).target


def _start(text: str, fresh: int) -> int:
    """The beginning of the line that holds the first new character, or of the code it is in."""
    at = max(text.rfind("\n", 0, fresh) + 1, fresh - LINE)
    for fence in _FENCES:
        if text.count(fence, 0, at) % 2:
            at = text.rfind(fence, 0, at)
    return at


def _why(words: int, language: str, wanted: Wanted) -> str:
    """In words that serve as an instruction when the model is asked again."""
    target = NAMES.get(wanted.target, wanted.target)
    return f"{words} words are in {NAMES.get(language, language)}, not in {target}; write everything in {target}"
