"""Your own rules: phrases and regular expressions, thousands at once, matched on folded text in time linear in its length.

The engine is RE2, in one set over all rules. What it cannot do (look-arounds, back-references) is refused when the policy is
read, as is a rule that matches nothing at all or has no longest match where text is streamed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined]
from typing import Any, ClassVar, Literal

import re2

from temper.errors import PolicyError
from temper.serve.filters.patterns import LONGEST, Patterns, cased, folded_pattern, literal, options, tail, width
from temper.serve.fold import fold
from temper.serve.verdict import ACTIONS, OUTPUT, Action, Canary, Channel, Finding, Pace, View, canary_turn

_LOOKS = {"(?=": "look-ahead", "(?!": "negative look-ahead", "(?<=": "look-behind", "(?<!": "negative look-behind"}
_INSTEAD = "match the words around it too, or list what is wanted with |"
_KINDS = (("DIGIT", r"\d", r"\D"), ("SPACE", r"\s", r"\S"), ("WORD", r"\w", r"\W"))
_CATEGORIES = {f"CATEGORY_{n}{k}": c for k, d, u in _KINDS for n, c in (("", d), ("NOT_", u))}
_TOGETHER = (
    ("\u0e00", "\u0eff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u3040", "\u30ff"),
    ("\u3400", "\u9fff"),
    ("\uac00", "\ud7a3"),
)
"""Scripts that write words without spaces: Thai and Lao, Burmese, Khmer, kana, Han; and Korean, whose particles stand at words.
A phrase in them, or beside them, has no word boundary."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a `pattern` in RE2's syntax or `phrases`, taken literally and as whole words (`words = false`: anywhere).

    Upper and lower case are one unless `exact`. `action` "" is that of the filter; `channels` () are all that the filter reads.
    `reach` is the longest text, in folded characters, that a pattern without a bound is trusted to match; `example` a text that a
    pattern matches, for the self-test, where none can be told from it.
    """

    id: str
    pattern: str = ""
    phrases: tuple[str, ...] = ()
    words: bool = True
    exact: bool = False
    action: Literal["", "allow", "redact", "rewrite", "review", "block"] = ""
    category: str = ""
    replacement: str = "[removed]"
    channels: tuple[Channel, ...] = ()
    shadow: bool = False
    why: str = ""
    reach: int = 0
    example: str = ""


@dataclass(frozen=True)
class Rules:
    """Findings of every rule that occurs. Raises `PolicyError` for a rule that cannot be kept."""

    name: ClassVar[str] = "rules"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    default_action: ClassVar[Action] = Action.BLOCK

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyError("the filter has no rules; write [[rules]], or leave it out")
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise PolicyError(f"rule {rule.id!r} is there twice; every rule needs an id of its own")
            seen.add(rule.id)
        made = [(n, *source) for n, rule in enumerate(self.rules) for source in _sources(rule)]
        patterns = Patterns([m[1] for m in made], [m[2] for m in made], [m[3] for m in made])
        spans = [_reach(r) for r in self.rules]
        # no fields: a policy cannot set them, and two filters with the same rules are equal
        object.__setattr__(self, "_patterns", patterns)
        object.__setattr__(self, "_planted", tuple(tuple((r.id, text) for text in _examples(r)) for r in self.rules))
        object.__setattr__(self, "_of", tuple(m[0] for m in made))
        object.__setattr__(self, "_back", max(spans, default=0))
        object.__setattr__(self, "_reach", max((n for n, r in zip(spans, self.rules, strict=True) if not r.shadow), default=0))

    @property
    def reach(self) -> int:
        """The longest match of a rule that counts; rules in shadow need no text held back."""
        return int(self._reach)  # type: ignore[attr-defined]

    @property
    def default_channels(self) -> tuple[Channel, ...]:
        """The channels that a rule reads."""
        return tuple(c for c in Channel if any(not r.channels or c in r.channels for r in self.rules))

    def __call__(self, view: View, /) -> Sequence[Finding]:
        patterns: Patterns = self._patterns  # type: ignore[attr-defined]
        part = tail(view, self._back)  # type: ignore[attr-defined]
        start = max(part.fresh - self._back - 1, 0)  # type: ignore[attr-defined]
        found = []
        for hit in patterns.within(part, start, view.fresh, view.text):
            rule = self.rules[self._of[hit.index]]  # type: ignore[attr-defined]
            if rule.channels and view.channel not in rule.channels:
                continue
            if rule.phrases and rule.words and not _stands_alone(view.text, hit.start, hit.end, hit.text):
                continue
            found.append(_finding(rule, hit.start, hit.end))
        return found

    def canary(self, channel: Channel, /) -> Canary:
        """What the first rule of the channel matches, and a text for each phrase and pattern. Raises `PolicyError` for a channel
        that no rule reads.
        """
        planted = tuple(p for r, p in zip(self.rules, self._planted, strict=True) if not r.channels or channel in r.channels)  # type: ignore[attr-defined]
        if not planted:
            raise PolicyError(f"no rule reads {channel}; leave it out of the channels of the filter")
        return Canary(planted[0][0][1], canary_turn(), tuple(pair for pairs in planted for pair in pairs))


def _finding(rule: Rule, start: int, end: int) -> Finding:
    why = rule.why or f"rule {rule.id} matched"
    action = ACTIONS[rule.action] if rule.action else None
    return Finding("rules", rule.id, rule.category or "rule", action, start, end, rule.replacement, why=why, shadow=rule.shadow)


def _sources(rule: Rule) -> list[tuple[str, str, str]]:
    """The rule as RE2 patterns for folded text, each with the one for text that keeps its case, "" where case is one, and with
    the folded phrase that it is, "" for a pattern. Raises `PolicyError` saying what is wrong with it and how to write it.
    """
    where = f"rule {rule.id!r}"
    if bool(rule.pattern) == bool(rule.phrases):
        raise PolicyError(f"{where}: give either a `pattern` or `phrases`")
    if rule.phrases:
        if not all(map(literal, rule.phrases)):
            raise PolicyError(f"{where}: an empty phrase is in every text; take it out")
        return [
            (literal(p), re2.escape(cased(p).strip()) if rule.exact else "", fold(p).text.strip())
            for p in dict.fromkeys(rule.phrases)
        ]
    for opening, kind in _LOOKS.items():
        if opening in re.sub(r"\\.|\[[^\]]*\]", "", rule.pattern):
            raise PolicyError(f"{where}: RE2 has no {kind}, {opening}...), which would make time explode; {_INSTEAD}")
    if re.search(r"(?<!\\)(?:\\\\)*\\[1-9]|\(\?P=", rule.pattern):
        raise PolicyError(
            f"{where}: RE2 has no back-references; write what the group matches once more, or one rule for each case"
        )
    try:
        compiled = re2.compile(folded_pattern(rule.pattern), options())
    except re2.error as error:
        message = error.args[0] if error.args else ""
        raise PolicyError(f"{where}: not an RE2 pattern: {message.decode() if isinstance(message, bytes) else message}") from None
    if compiled.search("") or _fewest(rule.pattern) == 0:
        raise PolicyError(f"{where}: the pattern matches the empty text, so every text; make one part of it necessary")
    return [(folded_pattern(rule.pattern), rule.pattern if rule.exact else "", "")]


def _fewest(pattern: str) -> int:
    try:
        return width(pattern)[0]
    except PolicyError:  # syntax of RE2 alone: the search in an empty text has to do
        return 1


def _reach(rule: Rule) -> int:
    """Folded characters of the rule's longest match. Raises `PolicyError` where there is none and text is streamed."""
    if rule.phrases:
        return max(len(fold(p).text) for p in rule.phrases)
    streamed = not rule.channels or any(c in rule.channels for c in OUTPUT)
    if rule.reach:
        longest: int | None = rule.reach
    else:
        try:
            longest = width(folded_pattern(rule.pattern))[1]
        except PolicyError as error:
            raise PolicyError(f"rule {rule.id!r}: {error}") from None
    if not streamed:
        return 0
    if longest is None:
        raise PolicyError(
            f"rule {rule.id!r}: its matches have no greatest length, so a stream could not be held back far enough; "
            "bound it, as in .{0,80} for .*, or give `reach`, the longest text it is meant for"
        )
    if longest > LONGEST:
        raise PolicyError(f"rule {rule.id!r}: matches up to {longest} characters would be held back; wanted at most {LONGEST}")
    return longest


def _stands_alone(raw: str, start: int, end: int, text: str) -> bool:
    """Whether a phrase is no part of a longer word."""
    return not (_joins(raw[start - 1 : start], text[:1]) or _joins(text[-1:], raw[end : end + 1]))


def _joins(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum() and not any(a <= c <= b for a, b in _TOGETHER for c in (left, right))


def _examples(rule: Rule) -> Sequence[str]:
    """Texts that the rule matches, one for each phrase. Raises `PolicyError` where none was found and none was given."""
    if rule.phrases or rule.example:
        return rule.phrases or (rule.example,)
    try:
        parsed = _parser.parse(rule.pattern)
        made = [_spoken(parsed, 0), _spoken(parsed, 1)]
    except re.error:
        made = []
    compiled = re2.compile(folded_pattern(rule.pattern), options())
    around = (text for m in made for text in (m, f"x{m}x", f" {m} "))
    fitting = next((text for text in around if compiled.search(fold(text).text)), None)
    if fitting is None:
        raise PolicyError(f"rule {rule.id!r}: no text was found that it matches; give one as `example`, for the self-test")
    return (fitting,)


def _spoken(parts: Any, least: int) -> str:
    """The shortest text of a parsed pattern, more or less: the first of each choice, as few repeats as are allowed, `least` of
    each at least.
    """
    return "".join(_part(str(op), value, least) for op, value in parts)


def _part(op: str, value: Any, least: int) -> str:
    match op:
        case "LITERAL":
            return chr(value)
        case "ANY" | "NOT_LITERAL":
            return "x" if value != ord("x") else "y"
        case "MAX_REPEAT" | "MIN_REPEAT":
            return _spoken(value[2], least) * max(int(value[0]), least)
        case "SUBPATTERN":
            return _spoken(value[3], least)
        case "BRANCH":
            return _spoken(value[1][0], least)
        case "IN":
            return _member(value)
        case "RANGE":
            return chr(value[0])
        case _:
            return ""


def _member(choices: Any) -> str:
    """A character of a class: of those at hand the first that fits."""
    negated = str(choices[0][0]) == "NEGATE"
    fitting = (c for c in "x0 -#" if any(_covers(str(op), v, c) for op, v in choices) != negated)
    return next(fitting, "" if negated else _part(str(choices[0][0]), choices[0][1], 1))


def _covers(op: str, value: Any, char: str) -> bool:
    match op:
        case "LITERAL":
            return bool(value == ord(char))
        case "RANGE":
            return bool(value[0] <= ord(char) <= value[1])
        case "CATEGORY":
            return re.match(_CATEGORIES[str(value)], char) is not None
        case _:
            return False
