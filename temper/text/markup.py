"""Whether written structure is whole: Markdown, its tables, numbered steps, LaTeX. Line by line, in linear time, no parser.

A renderer accepts anything and guesses; here what it would have to guess about is counted as wrong.
"""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from temper.text.invisible import visible

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
_INLINE_CODE = re.compile(r"(?<!`)(`{1,2})(?!`)[^`\n]{1,400}\1(?!`)")
_DELIMITER_CELL = re.compile(r"\s*:?-+:?\s*")
_PIPE = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_GLUED_HEADING = re.compile(r" {0,3}#{2,6}[^\s#]")
_ITEM = re.compile(r"([ \t]*)(?:[-*+]|(\d{1,9})[.)])[ \t]+\S")
_LINK = re.compile(r"\[[^\[\]\n]{1,300}\]\([^()\n]{0,600}\)")
_OPEN_LINK = re.compile(r"\[[^\[\]\n]{1,300}\]\([^()\n]*$")
_BEFORE_STEP = r"([ \t]*)(?:#{1,6}[ \t]+)?(?:\*\*|__)?"
_ORDINAL = r"(\d{1,4}|[一二三四五六七八九十]{1,3})"
_STEP = re.compile(rf"{_BEFORE_STEP}(?:step[ \t]*{_ORDINAL}|第[ \t]*{_ORDINAL}[ \t]*步|步骤[ \t]*{_ORDINAL})", re.IGNORECASE)
_NUMBERED = re.compile(rf"{_BEFORE_STEP}(\d{{1,4}})(?:[.)](?=[ \t*_]|$)|[、．])")
_LATEX = re.compile(
    r"\\(begin|end)[ \t]{0,4}\{([A-Za-z]{1,30}\*?)\}|\\(?:left|right)(?![A-Za-z])|\\[()\[\]]|\\.|\$\$|\$|[{}]", re.DOTALL
)
_CLOSES = {"}": "{", "\\)": "\\(", "\\]": "\\[", "\\right": "\\left"}


class Table(NamedTuple):
    """One Markdown table: cells of its header, of its delimiter row, and of each body row."""

    header: int
    delimiter: int
    rows: tuple[int, ...]


def outside_fences(text: str) -> tuple[list[str], bool]:
    """The visible lines of a text that are not fenced code, and whether every fence is closed (CommonMark 0.31, section 4.5)."""
    lines: list[str] = []
    mark = ""
    for line in visible(text).split("\n"):
        fence = _FENCE.match(line)
        if not mark:
            if fence and not (fence[1][0] == "`" and "`" in fence[2]):
                mark = fence[1]
            else:
                lines.append(line)
        elif fence and fence[1].startswith(mark) and not fence[2].strip():
            mark = ""
    return lines, not mark


def fenced(text: str, labels: Collection[str]) -> list[str]:
    """What stands in each closed fence of three backticks that is labelled so; it may open where a line of prose ends.

    Fences with another label are passed over whole, so that their end opens nothing. In linear time.
    """
    found: list[str] = []
    opened, wanted = -1, False
    lines = text.split("\n")
    for n, line in enumerate(lines):
        if opened < 0:
            before, mark, label = line.rpartition("```")
            wanted = label.strip() in labels
            opened = n if mark and (wanted or not before.strip(" \t`")) else -1
        elif line.lstrip(" \t").startswith("```"):
            found += ["\n".join(lines[opened + 1 : n])] if wanted else []
            opened = -1
    return found


def tables(text: str) -> list[Table]:
    """Tables in the sense of GitHub Flavored Markdown, section 4.10: a row of cells, one of dashes, rows up to an empty line."""
    lines = outside_fences(text)[0]
    found, at = [], 1
    while at < len(lines):
        if "|" in lines[at - 1] and _is_delimiter(lines[at]):
            end = next((i for i in range(at + 1, len(lines)) if "|" not in lines[i]), len(lines))
            rows = tuple(len(_cells(line)) for line in lines[at + 1 : end])
            found.append(Table(len(_cells(lines[at - 1])), len(_cells(lines[at])), rows))
            at = end
        at += 1
    return found


def steps(text: str) -> list[int]:
    """The numbers of the outermost numbered steps in their order: "Step 1", "1.", "第一步"; lists inside steps do not count."""
    lines = outside_fences(text)[0]
    named = [(m[1], m[2] or m[3] or m[4]) for m in map(_STEP.match, lines) if m]
    numbered = [(m[1], m[2]) for m in map(_NUMBERED.match, lines) if m]
    found = named if len(named) > 1 else numbered
    depth = min((len(indent.expandtabs(4)) for indent, _ in found), default=0)
    return [_number(n) for indent, n in found if len(indent.expandtabs(4)) <= depth + 1]


class Markdown(NamedTuple):
    """What a Markdown text has, and what of it is whole."""

    structure: bool
    fences: bool
    headings: bool
    lists: bool
    emphasis: bool
    links: bool


def markdown(text: str) -> Markdown:
    """Whether a text has any Markdown structure, and whether each kind of it is whole.

    Fences are closed; headings have a space and never skip a level downwards; ordered lists count up by one or start again at
    one; `**` and backticks come in pairs; a link's bracket is closed.
    """
    lines, closed = outside_fences(text)
    fenced = len(lines) < visible(text).count("\n") + 1
    plain = [_INLINE_CODE.sub(" ", line) if "`" in line else line for line in lines]
    levels = [len(m[1]) for m in map(_HEADING.match, plain) if m]
    items = [(len(m[1].expandtabs(4)), m[2]) for m in map(_ITEM.match, plain) if m]
    bold = sum(line.count("**") for line in plain)
    linked = any("](" in line and _LINK.search(line) for line in plain)
    return Markdown(
        structure=bool(fenced or levels or items or bold or linked or plain != lines or tables(text)),
        fences=closed,
        headings=all(b <= a + 1 for a, b in pairwise(levels)) and not any(map(_GLUED_HEADING.match, plain)),
        lists=_counts_up(items),
        emphasis=bold % 2 == 0 and not any("`" in line for line in plain),
        links=not any("](" in line and _OPEN_LINK.search(line) for line in plain),
    )


class Latex(NamedTuple):
    """What is whole in the LaTeX of a text; `formula` says that there is some."""

    formula: bool
    braces: bool
    environments: bool
    delimiters: bool
    fences: bool


def latex(text: str) -> Latex:
    r"""Whether braces, environments, math delimiters and \left-\right pairs of a text close what they opened, in order."""
    opened: dict[str, list[str]] = {"braces": [], "environments": [], "delimiters": [], "fences": []}
    whole = dict.fromkeys(opened, True)
    formula = False
    for match in _LATEX.finditer("\n".join(outside_fences(text)[0])):
        kind, mark, closes = _latex_mark(match, opened["delimiters"])
        formula = formula or kind in ("environments", "delimiters", "fences") or (not kind and match[0][1:].isalpha())
        if not kind:
            continue
        if not closes:
            opened[kind].append(mark)
        elif not opened[kind] or opened[kind].pop() != mark:
            whole[kind] = False
    return Latex(formula, **{kind: whole[kind] and not opened[kind] for kind in opened})


def is_schema(text: str) -> bool:
    """Whether a text is meant as a JSON Schema: an object that names its dialect by `$schema`."""
    return text.lstrip().startswith("{") and '"$schema"' in text


def is_checklist(text: str) -> bool:
    """Whether a text is a list of verifiable instructions: an object that names them by `instructions`."""
    return text.startswith('{"instructions"')


def _latex_mark(match: re.Match[str], delimiters: Sequence[str]) -> tuple[str, str, bool]:
    """Kind, name and direction of one mark; ("", …) for a command that opens and closes nothing."""
    found = match[0]
    if match[1]:
        return "environments", match[2], match[1] == "end"
    if found in ("$", "$$"):
        return "delimiters", found, bool(delimiters) and delimiters[-1] == found
    kind = (
        "braces" if found in "{}" else "delimiters" if found[1:] in "()[]" else "fences" if found in ("\\left", "\\right") else ""
    )
    return kind, _CLOSES.get(found, found), found in _CLOSES


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return _PIPE.split(inner)


def _is_delimiter(line: str) -> bool:
    return "-" in line and "|" in line and all(map(_DELIMITER_CELL.fullmatch, _cells(line)))


def _counts_up(items: Sequence[tuple[int, str | None]]) -> bool:
    """Each number of an ordered list, at its own indentation, follows the one before, or starts a list at one."""
    last: dict[int, int] = {}
    for indent, number in items:
        if number is None:
            continue
        if int(number) not in (1, last.get(indent, 0) + 1):
            return False
        last = {depth: n for depth, n in last.items() if depth < indent} | {indent: int(number)}
    return True


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _chinese_number(text)


def _chinese_number(text: str) -> int:
    tens, ten, ones = text.rpartition("十")
    digit = {c: n for n, c in enumerate("一二三四五六七八九", 1)}
    return (10 * digit.get(tens, 1) if ten else 0) + digit.get(ones, 0)
