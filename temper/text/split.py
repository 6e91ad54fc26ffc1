"""Split what a model wrote into reasoning and answer, whatever shape its think block has; never judges either.

The shapes are those of R1-style models: A `<think>T</think>A`; B `T</think>A` (the chat template opened the block in the
prompt); C `<think>T` cut by the token cap; D `<think></think>A`. Three widely used harnesses each take the cut thought of C, or
the thought of B, for the answer; here a thought that was cut is never an answer.

Rules where a text is ambiguous:

- A tag inside a code fence or inline code is text. A fence that is never closed hides nothing.
- Nested blocks end at the closer that balances them; if none does, at the first closer, as serving engines do.
- What stands outside every block is answer, because a reader of the raw text sees it.
- After a thought has closed, an opener without a closer is a stray tag, so nothing visible can be hidden behind it.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"
PRELUDE_WORDS = 10
"""An unclosed opener still begins the thought if at most so many words stand before it ("Sure!\\n<think>…")."""

Thought = Literal["none", "closed", "open"]


class Split(NamedTuple):
    """Reasoning and answer of one completion, both stripped.

    `thought` is `none` (no block), `closed`, or `open` (begun, never closed: then `answer` is empty). `problems` lists, sorted,
    what was irregular: `missing-opener`, `nested`, `repeated-opener`, `several-blocks`, `stray-closer`, `stray-opener`,
    `text-before-thought`, `variant-tag`.
    """

    reasoning: str
    answer: str
    thought: Thought
    problems: tuple[str, ...] = ()


def left_open(prefill: str, *, opened: bool = False) -> bool:
    """Whether a model goes on inside a thought: after the beginning of a reply it is handed, or else by its chat template."""
    return split(prefill).thought == "open" if prefill else opened


class _Tag(NamedTuple):
    start: int
    end: int
    opens: bool


def split(
    raw: str,
    *,
    opened: bool = False,
    reasoning_content: str | None = None,
    open_tag: str = OPEN_TAG,
    close_tag: str = CLOSE_TAG,
) -> Split:
    """Split one generated text, in time linear in its length.

    `opened` says that the chat template already wrote the opening tag into the prompt. `reasoning_content` is the field of
    OpenAI-compatible servers that split the thought off themselves; `raw` is then the content ("" for a null content, which
    means that the cap was hit inside the thought). Tags match in any case, and `<thinking>` counts as `<think>`. Of the text,
    only tags and whitespace around the parts are dropped.
    """
    if reasoning_content is not None:
        return _from_server(raw, reasoning_content, split(raw, open_tag=open_tag, close_tag=close_tag), opened=opened)
    tags = _real_tags(raw, open_tag, close_tag)
    problems = {"variant-tag" for t in tags if raw[t.start : t.end] != (open_tag if t.opens else close_tag)}
    tags = _with_implied_opener(raw, tags, problems, opened=opened)
    if _never_closed(raw, tags):
        return _open(raw, tags, problems)
    inside, answers = _parts(raw, tags, problems)
    if not inside:
        return Split("", _join(answers), "none", tuple(sorted(problems)))
    return Split(_join(inside), _join(answers), "closed", tuple(sorted(problems)))


def thoughts(raw: str, *, opened: bool = False, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG) -> list[tuple[int, int]]:
    """Where the think blocks of a text stand, as character ranges with their tags: what `split` does not take for answer."""
    tags = _with_implied_opener(raw, _real_tags(raw, open_tag, close_tag), set(), opened=opened)
    if _never_closed(raw, tags):
        return [(0, len(raw))]
    return [(tags[i].start, tags[closer].end) for i, closer in _blocks(tags) if closer is not None]


def render(reasoning: str, answer: str, *, open_tag: str = OPEN_TAG, close_tag: str = CLOSE_TAG) -> str:
    """The text that `split` takes apart again: what supervised traces are written as."""
    return f"{open_tag}\n{reasoning}\n{close_tag}\n\n{answer}"


def _from_server(raw: str, reasoning: str, content: Split, *, opened: bool) -> Split:
    problems = set(content.problems)
    if content.reasoning and reasoning.strip():
        problems.add("several-blocks")
    thought: Thought = content.thought
    if reasoning.strip():
        thought = "closed" if raw.strip() and thought != "open" else "open"
    elif opened and thought == "none":
        thought = "closed" if raw.strip() else "open"
    return Split(_join([reasoning, content.reasoning]), content.answer, thought, tuple(sorted(problems)))


def _with_implied_opener(raw: str, tags: list[_Tag], problems: set[str], *, opened: bool) -> list[_Tag]:
    """Stand in for the opener that is in the prompt (`opened`) or was left out (the first tag closes)."""
    if opened and tags and tags[0].opens and not raw[: tags[0].start].strip():
        problems.add("repeated-opener")
        return tags
    if opened:
        return [_Tag(0, 0, True), *tags]
    if tags and not tags[0].opens:
        problems.add("missing-opener")
        return [_Tag(0, 0, True), *tags]
    return tags


def _never_closed(raw: str, tags: list[_Tag]) -> bool:
    if not tags or any(not t.opens for t in tags):
        return False
    before = raw[: tags[0].start]
    return not before.strip() or (before.rstrip(" \t").endswith("\n") and len(before.split()) <= PRELUDE_WORDS)


def _open(raw: str, tags: list[_Tag], problems: set[str]) -> Split:
    if raw[: tags[0].start].strip():
        problems.add("text-before-thought")
    if len(tags) > 1:
        problems.add("nested")
    return Split(_join(_between(raw, 0, len(raw), tags)), "", "open", tuple(sorted(problems)))


def _parts(raw: str, tags: list[_Tag], problems: set[str]) -> tuple[list[str], list[str]]:
    """Walk the tags once; returns the pieces inside blocks and the pieces outside them."""
    inside: list[str] = []
    answers: list[str] = []
    at, blocks = 0, 0
    for i, closer in _blocks(tags):
        answers.append(raw[at : tags[i].start])
        if closer is None:
            problems.add("stray-opener" if tags[i].opens else "stray-closer")
        else:
            problems.update(_block_problems(answers, blocks, nested=closer > i + 1))
            inside += _between(raw, tags[i].end, tags[closer].start, tags[i + 1 : closer])
            blocks += 1
        at = tags[i if closer is None else closer].end
    answers.append(raw[at:])
    return inside, answers


def _blocks(tags: list[_Tag]) -> Iterator[tuple[int, int | None]]:
    """Each outermost tag with the closer that ends its block, None for a stray one."""
    closers, i = _closers(tags), 0
    while i < len(tags):
        closer = closers[i]
        yield i, closer
        i = (i if closer is None else closer) + 1


def _block_problems(answers: list[str], blocks: int, *, nested: bool) -> Iterator[str]:
    if nested:
        yield "nested"
    if blocks:
        yield "several-blocks"
    elif any(a.strip() for a in answers):
        yield "text-before-thought"


def _closers(tags: list[_Tag]) -> list[int | None]:
    """For each opener the index of the closer that ends its block (balanced, else the next one); None for everything else."""
    found: list[int | None] = [None] * len(tags)
    waiting: list[int] = []
    for i, tag in enumerate(tags):
        if tag.opens:
            waiting.append(i)
        elif waiting:
            found[waiting.pop()] = i
    following: int | None = None
    for i in range(len(tags) - 1, -1, -1):
        if not tags[i].opens:
            following = i
        elif found[i] is None:
            found[i] = following
    return found


def _between(raw: str, start: int, end: int, inner: list[_Tag]) -> list[str]:
    pieces = []
    for tag in inner:
        pieces.append(raw[start : tag.start])
        start = tag.end
    return [*pieces, raw[start:end]]


def _join(pieces: list[str]) -> str:
    return "\n".join(p.strip() for p in pieces if p.strip())


# --- which tags are real ----------------------------------------------------------------------------------------------

_FENCE = re.compile(r"(?:^[ \t>]*|(?<=>))(`{3,}|~{3,})(\w?)", re.MULTILINE)
_TICKS = re.compile(r"`+|\n")


@cache
def _pattern(open_tag: str, close_tag: str) -> re.Pattern[str]:
    """One alternative per kind of tag; the group `open` tells them apart. Whitespace is bounded, so matching stays linear."""
    if (open_tag, close_tag) == (OPEN_TAG, CLOSE_TAG):
        # what both begin with stands before the alternatives: so it is looked for as fast as a single character is
        spaced = r"\s{0,2}think(?:ing)?\s{0,2}>"
        return re.compile(rf"<(?:(?P<open>{spaced})|\s{{0,2}}/{spaced})", re.IGNORECASE)
    return re.compile(f"(?P<open>{re.escape(open_tag)})|{re.escape(close_tag)}", re.IGNORECASE)


def _real_tags(raw: str, open_tag: str, close_tag: str) -> list[_Tag]:
    """Every tag that is not quoted as code, in order."""
    tags = [_Tag(m.start(), m.end(), m["open"] is not None) for m in _pattern(open_tag, close_tag).finditer(raw)]
    if not tags or ("`" not in raw and "~~~" not in raw):
        return tags
    fences = _fences(raw)[0]
    unfenced = _outside(tags, fences)
    real = _outside(unfenced, _inline(raw, fences))
    if any(not t.opens for t in real):
        return real
    kept = set(unfenced)
    return sorted([*real, *_forgotten_fence(raw, [t for t in tags if t not in kept])])


def _forgotten_fence(raw: str, fenced: list[_Tag]) -> list[_Tag]:
    """A thought that forgot to close its fence: its closer is real if the text after it is well-fenced without it."""
    last = next((t for t in reversed(fenced) if not t.opens), None)
    return [last] if last is not None and not _fences(raw[last.end :])[1] else []


def _outside(tags: list[_Tag], spans: list[tuple[int, int]]) -> list[_Tag]:
    kept, i = [], 0
    for tag in tags:
        while i < len(spans) and spans[i][1] <= tag.start:
            i += 1
        if i == len(spans) or tag.start < spans[i][0]:
            kept.append(tag)
    return kept


def _fences(text: str) -> tuple[list[tuple[int, int]], bool]:
    """The closed fences of a text, and whether one was left open. A fence closes at the same mark, as long or longer."""
    spans, start, mark = [], -1, ""
    for match in _FENCE.finditer(text):
        if start < 0:
            start, mark = match.start(1), match[1]
        elif match[1].startswith(mark) and not match[2]:
            spans.append((start, match.end(1)))
            start = -1
    return spans, start >= 0


def _inline(raw: str, fences: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Inline code outside fences: two runs of equally many backticks on one line."""
    runs = list(_TICKS.finditer(raw))
    inside = {t.start for t in _outside([_Tag(m.start(), m.end(), True) for m in runs], fences)}
    runs = [m for m in runs if m.start() in inside or m[0] == "\n"]
    partner: dict[int, int] = {}
    ahead: dict[str, int] = {}
    for i in range(len(runs) - 1, -1, -1):
        if runs[i][0] == "\n":
            ahead.clear()
            continue
        if runs[i][0] in ahead:
            partner[i] = ahead[runs[i][0]]
        ahead[runs[i][0]] = i
    spans, i = [], 0
    while i < len(runs):
        if i in partner:
            spans.append((runs[i].start(), runs[partner[i]].end()))
            i = partner[i]
        i += 1
    return spans
