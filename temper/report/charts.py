"""Figures as inline SVG: shares against shares, lines over steps, ranges, bars, a heat map, a small interval for table cells.

Colours come from CSS classes (`c0` to `c7`), so that one drawing serves light, dark and print; shapes and dashes repeat what
colour says. Nothing here knows about runs, and every string is escaped. See docs/decisions/0005-charts.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from temper.text.invisible import spelled_out

Interval = tuple[float, float, float]  # value, low, high
Box = tuple[float, float, float, float]  # left, top, right, bottom
COLOURS = 8
NAMED = 8  # points that have room for their names beside them
TIED = 9  # pixels within which markers hide each other
LONGEST = 26  # characters of a name beside its point
KEY_COLUMNS = 3
DASHES = ("", "7 3", "3 2", "9 3 2 3", "14 3", "2 2")
WIDE, NARROW = 460, 370  # pixels at which text has its nominal size: half a page, a third of one or a phone
ROOM = 150  # for names at the ends of lines; longer ones widen the figure
CHARACTER = 7  # its mean width
ROW = 13  # height of a row of labels
ROWS = 20  # of labels above a figure with marks, at most
MOST_POINTS = 240  # of one line; more would only thicken it
FAINTEST, STRONGEST = 0.04, 0.56  # opacity of a heat map's cells: text on any of them keeps a contrast of 4.5
CELL = (74, 132)  # least and most width of a heat map's column
CELL_HEIGHT = 36


@dataclass(frozen=True, slots=True)
class Point:
    label: str
    x: Interval
    y: Interval


@dataclass(frozen=True, slots=True)
class Line:
    """`dots` also marks each point, for values that were only taken now and then; `spans` are intervals (x, low, high)."""

    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    spans: Sequence[Interval] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an x: a dashed line with a short label, or without one a tick on the axis."""

    x: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps data to pixels inside the axes: x from left to right, y from bottom to top."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return round(self.left + across * (self.right - self.left), 1), round(self.bottom - up * (self.bottom - self.top), 1)


def frontier(points: Sequence[Point], *, title: str, x_label: str, y_label: str, diagonal: bool = False) -> Markup:
    """Shares against shares with error bars; more than NAMED points have numbers, and a legend below.

    An arrow leads from the first point to each other one. With `diagonal` the axes are alike, the line on which both shares are
    equal is drawn, and no arrows are.
    """
    width, height = WIDE, 340
    x_most, y_most = _ceiling([p.x[2] for p in points]), _ceiling([p.y[2] for p in points])
    if diagonal:
        x_most = y_most = max(x_most, y_most)
    frame = Frame((0, x_most), (0, y_most), 62, width - 20, 16, height - 46)
    guides = [_equal(frame)] if diagonal else _arrows(frame, points)
    marks = [_estimate(frame, p, i, faint=len(points) > NAMED) for i, p in enumerate(points)]
    axes = _axes(frame, x_label, y_label, percent=True)
    if len(points) > NAMED:
        legend, below = _legend([p.label for p in points], height + 8)
        return _svg(width, height + below, title, [axes, *guides[:diagonal], *marks, *_numbers(frame, points), *legend])
    return _svg(width, height, title, [axes, *guides, *marks, *_labels(frame, points)])


def lines(series: Sequence[Line], *, title: str, x_label: str, y_label: str, marks: Sequence[Mark] = ()) -> Markup:
    """Values over steps; each line is named at its end. Lines without points and marks beyond the data are left out."""
    drawn = [(i, line) for i, line in enumerate(series) if line.points]
    height, xs = 230, [x for _, line in drawn for x, _ in line.points] or [0.0]
    ys = [y for _, line in drawn for _, y in line.points] or [0.0]
    ys += [y for _, line in drawn for _, *ends in line.spans for y in ends]
    marks = [m for m in marks if min(xs) <= m.x <= max(xs)]
    low, high = _span(ys)
    names_wide = 8 * max((len(line.label) for _, line in drawn), default=0)
    width = NARROW + max(0, names_wide - ROOM)
    flat = Frame((min(xs), max(xs)), (low, high), 44, width - 12 - names_wide, 12, height - 46)
    rows = _label_rows([flat.at(m.x, low)[0] for m in _labelled(marks)], [m.label for m in _labelled(marks)])
    air = ROW * max(3, 1 + max(rows)) if rows else 0  # three at least, so that figures side by side are of one height
    frame = replace(flat, top=flat.top + air, bottom=flat.bottom + air)
    shapes = [*_marked(frame, marks, rows), *(_path(frame, line, i) for i, line in drawn)]
    ends = _spread([frame.at(*line.points[-1])[1] for _, line in drawn], 14)
    names = [_text(frame.right + 8, y + 4, line.label, f"c{i % COLOURS} name") for (i, line), y in zip(drawn, ends, strict=True)]
    return _svg(width, height + air, title, [_axes(frame, x_label, y_label), *shapes, *names])


def ranges(rows: Sequence[tuple[str, Interval, Sequence[float]]], *, title: str, x_label: str) -> Markup:
    """One line per row: its value with its interval, and hollow marks for the single values behind it; all within [0, 1]."""
    row, left = 26, max(60, 24 + CHARACTER * max((len(label) for label, *_ in rows), default=0))
    height, width = len(rows) * row + 62, max(WIDE, left + 280)
    frame = Frame((0.0, 1.0), (0.0, 1.0), left, width - 20, 12, height - 46)
    drawn: list[Markup] = [_across(frame, x_label)]
    for number, (label, estimate, singles) in enumerate(rows):
        y, at = 12 + row * (number + 0.5), [frame.at(v, 0)[0] for v in estimate]
        drawn.append(_text(left - 10, y + 4, label, "end"))
        drawn += [_tag("circle", cx=frame.at(v, 0)[0], cy=y + 7, r=2.5, class_="dot hollow") for v in singles]
        drawn.append(_tag("line", x1=at[1], x2=at[2], y1=y, y2=y, class_="whisker"))
        drawn.append(marker(0, at[0], y))
    return _svg(width, height, title, drawn)


def stacked(bars: Sequence[tuple[str, Mapping[str, float]]], parts: Sequence[str], *, title: str) -> Markup:
    """One horizontal bar per row, its parts in a fixed order and as shares of the row; parts from 9 % on carry their number."""
    row, left = 22, max(84, 16 + CHARACTER * max((len(label) for label, _ in bars), default=0))
    width, key = NARROW + left - 84, 20 * math.ceil(len(parts) / KEY_COLUMNS) + 8
    drawn: list[Markup] = [*_key(parts)]
    for number, (label, counts) in enumerate(bars):
        top, whole, at = key + number * row, sum(counts.values()) or 1, float(left)
        drawn.append(_text(left - 8, top + 14, label, "end"))
        for i, part in enumerate(parts):
            wide = (width - left - 4) * counts.get(part, 0) / whole
            if wide:
                drawn.append(
                    _tag("rect", x=round(at, 1), y=top, width=round(wide, 1), height=row - 5, class_=f"c{i % COLOURS} bar")
                )
            if counts.get(part, 0) / whole >= 0.09:
                drawn.append(_text(at + wide / 2, top + 13, f"{100 * counts[part] / whole:.0f}", "inside middle"))
            at += wide
    return _svg(width, key + len(bars) * row + 4, title, drawn)


def heat(rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], Interval | None], *, title: str) -> Markup:
    """A share in each cell, with its interval below it and as the strength of its colour; a cell without one holds a dash.

    `values` goes by (row, column). Names too long for their place are cut; the figure's table holds them whole.
    """
    left = min(250, 16 + CHARACTER * max((len(row) for row in rows), default=0))
    wide = min(CELL[1], max(CELL[0], 14 + CHARACTER * max((len(column) for column in columns), default=0)))
    width, top = max(left + wide * len(columns) + 2, left + 240), 26
    drawn = [_text(left + wide * (i + 0.5), 16, _fitted(c, wide - 6), "tick middle") for i, c in enumerate(columns)]
    for number, row in enumerate(rows):
        y = top + number * CELL_HEIGHT
        drawn.append(_text(left - 10, y + 21, _fitted(row, left - 14), "end"))
        for place, column in enumerate(columns):
            drawn += _heated(left + place * wide, y, wide, values.get((row, column)))
    bottom = top + CELL_HEIGHT * len(rows)
    return _svg(width, bottom + 40, title, [*drawn, *_heat_key(left, bottom + 12)], fixed=True)


def interval(value: float, low: float, high: float, limit: float, *, firm: bool) -> Markup:
    """A dot on a line with zero in the middle, for a table cell; hollow where the difference is not firm."""
    half = 70

    def x(v: float) -> float:
        return round(half + 4 + half * max(-1.0, min(1.0, v / (limit or 1))), 1)

    shapes = [
        _tag("line", x1=half + 4, x2=half + 4, y1=1, y2=19, class_="grid"),
        _tag("line", x1=x(low), x2=x(high), y1=10, y2=10, class_="whisker"),
        _tag("circle", cx=x(value), cy=10, r=4, class_="dot" if firm else "dot hollow"),
    ]
    attributes = {"viewBox": f"0 0 {2 * half + 8} 20", "class": "cell", "aria-hidden": "true"}
    return _tag("svg", *shapes, **attributes)


def marker(number: int, x: float, y: float) -> Markup:
    """Circle, square, diamond or triangle in the colour of its number."""
    paint, shape = f"c{number % COLOURS} mark", number % 4
    if shape == 0:
        return _tag("circle", cx=x, cy=y, r=5.5, class_=paint)
    if shape == 1:
        return _tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_=paint)
    corners = [(0, -7), (7, 0), (0, 7), (-7, 0)] if shape == 2 else [(0, -7), (6.5, 5), (-6.5, 5)]
    return _tag("polygon", points=" ".join(f"{round(x + dx, 1)},{round(y + dy, 1)}" for dx, dy in corners), class_=paint)


def _estimate(frame: Frame, point: Point, number: int, *, faint: bool) -> Markup:
    x, y = frame.at(point.x[0], point.y[0])
    (left, _), (right, _) = frame.at(point.x[1], point.y[0]), frame.at(point.x[2], point.y[0])
    (_, bottom), (_, top) = frame.at(point.x[0], point.y[1]), frame.at(point.x[0], point.y[2])
    paint = f"c{number % COLOURS} error" + (" faint" if faint else "")
    across = _tag("line", x1=left, x2=right, y1=y, y2=y, class_=paint)
    up = _tag("line", x1=x, x2=x, y1=bottom, y2=top, class_=paint)
    return _tag("g", across, up, marker(number, x, y))


def _labels(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    """Names beside their markers where no other name or marker stands; one that had to go far has a line to its marker.

    Markers that hide each other are repeated before their names, since only the last of them is seen.
    """
    places = [frame.at(p.x[0], p.y[0]) for p in points]
    bars = [bar for p in points for bar in _bars(frame, p)]
    heights = (frame.at(frame.x[0], value)[1] for value in _ticks(*frame.y))
    bars += [(0.0, y - 7, frame.left, y + 7) for y in heights]  # the numbers of the axis
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    drawn: list[Markup] = []
    for i, (point, at) in enumerate(zip(points, places, strict=True)):
        tied = sum(math.dist(at, other) < TIED for other in places) > 1
        name = _fitted(point.label, CHARACTER * LONGEST)
        box = _free(frame, at, 8 * len(name) + (18 if tied else 4), taken, bars)
        taken.append(box)
        drawn += _named(i, name, at, box, tied=tied)
    return drawn


def _bars(frame: Frame, point: Point) -> list[Box]:
    """The boxes that a point's error bars take."""
    x, y = frame.at(point.x[0], point.y[0])
    (left, bottom), (right, top) = frame.at(point.x[1], point.y[1]), frame.at(point.x[2], point.y[2])
    return [(left, y - 2, right, y + 2), (x - 2, top, x + 2, bottom)]


def _free(frame: Frame, at: tuple[float, float], wide: float, taken: Sequence[Box], bars: Sequence[Box]) -> Box:
    """The nearest box of that width, right or left of a place, that meets nothing taken and, where it can, none of `bars`."""
    x, y = at
    sides = ((0, x + 9), (12, x - 9 - wide), (40, x + 49), (52, x - 49 - wide))  # how little each is liked, and its left end
    shifts = range(-300, 301, 5)
    ranked = sorted((abs(s + 10) + cost, (left, y + s - 7, left + wide, y + s + 7)) for cost, left in sides for s in shifts)
    tried = [box for _, box in ranked]
    inside = [b for b in tried if b[0] >= 2 and b[2] <= frame.right + 18 and b[1] >= 2 and b[3] <= frame.bottom - 2]
    apart = [b for b in inside if not any(_meet(b, other) for other in taken)]
    return next((b for b in apart if not any(_meet(b, bar) for bar in bars)), (apart or inside or tried)[0])


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _named(number: int, name: str, at: tuple[float, float], box: Box, *, tied: bool) -> list[Markup]:
    """A name in its box, its marker before it where that is tied, and a line to its place where it stands far from it."""
    left, top, right, bottom = box
    middle, edge = (top + bottom) / 2, left if left > at[0] else right
    drawn = [marker(number, left + 6, middle)] if tied else []
    if abs(middle - at[1]) > 16 or abs(edge - at[0]) > 20:
        drawn.insert(0, _tag("line", x1=at[0], y1=at[1], x2=round(edge, 1), y2=round(middle, 1), class_="leader"))
    return [*drawn, _text(left + (16 if tied else 2), middle + 4, name, f"c{number % COLOURS} name halo")]


def _fitted(words: str, wide: float) -> str:
    """As many characters as have room there, an ellipsis for the others."""
    most = max(4, int(wide / CHARACTER))
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _heated(left: float, top: float, wide: float, found: Interval | None) -> list[Markup]:
    """One cell of a heat map."""
    middle = left + wide / 2
    box = {"x": round(left + 1, 1), "y": round(top + 1, 1), "width": round(wide - 2, 1), "height": CELL_HEIGHT - 2}
    if found is None:
        return [_tag("rect", **box, class_="heat unknown"), _text(middle, top + 22, "–", "tick middle")]
    value, low, high = found
    strength = FAINTEST + (STRONGEST - FAINTEST) * min(1.0, max(0.0, value))
    return [
        _tag("rect", **box, class_="heat", fill_opacity=round(strength, 3)),
        _text(middle, top + 16, f"{100 * value:.0f} %", "middle name"),
        _text(middle, top + 29, f"{100 * low:.0f}–{100 * high:.0f}", "middle small"),
    ]


def _heat_key(left: float, top: float) -> list[Markup]:
    """From 0 to 100 % in five steps."""
    drawn = []
    for i in range(5):
        strength = round(FAINTEST + (STRONGEST - FAINTEST) * i / 4, 3)
        drawn.append(_tag("rect", x=left + 1 + 34 * i, y=top, width=34, height=16, class_="heat", fill_opacity=strength))
        drawn.append(_text(left + 18 + 34 * i, top + 12, f"{25 * i}", "middle small"))
    return [*drawn, _text(left + 180, top + 12, "%", "tick")]


def _equal(frame: Frame) -> Markup:
    (x1, y1), (x2, y2) = frame.at(frame.x[0], frame.x[0]), frame.at(frame.x[1], frame.x[1])
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="event")


def _arrows(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    start = frame.at(points[0].x[0], points[0].y[0])
    return [_arrow(start, frame.at(p.x[0], p.y[0])) for p in points[1:]]


def _numbers(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    """Each point's number at the first place around its marker where no other number stands."""
    sides = ((1, 0), (0, -1), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
    around = [(1.4 * r * dx, 4 + r * dy) for r in range(11, 160, 12) for dx, dy in sides]
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = frame.at(point.x[0], point.y[0])
        places = [(x + dx, y + dy) for dx, dy in around if frame.left < x + dx < frame.right and 10 < y + dy < frame.bottom]
        free = (p for p in places if all(abs(p[0] - a) >= 17 or abs(p[1] - b) >= 12 for a, b in taken))
        taken.append(next(free, places[-1]))
    return [_text(x, y, str(i + 1), f"c{i % COLOURS} name halo middle") for i, (x, y) in enumerate(taken)]


def _legend(labels: Sequence[str], top: float) -> tuple[list[Markup], float]:
    """Number, marker and name of every point in two columns, and the height that takes."""
    rows, drawn = math.ceil(len(labels) / 2), []
    for i, label in enumerate(labels):
        x, y = 10 + (i // rows) * WIDE / 2, top + 8 + (i % rows) * 17
        drawn += [_text(x + 14, y + 4, str(i + 1), "tick end"), marker(i, x + 26, y), _text(x + 38, y + 4, label, "tick")]
    return drawn, rows * 17 + 16


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    (x1, y1), (x2, y2) = start, end
    far = math.hypot(x2 - x1, y2 - y1)
    if far < 30:
        return Markup("")
    dx, dy = (x2 - x1) / far, (y2 - y1) / far
    tip_x, tip_y = x2 - 10 * dx, y2 - 10 * dy
    wings = [(tip_x - 8 * dx - 3.5 * dy, tip_y - 8 * dy + 3.5 * dx), (tip_x - 8 * dx + 3.5 * dy, tip_y - 8 * dy - 3.5 * dx)]
    head = " ".join(f"{round(x, 1)},{round(y, 1)}" for x, y in [(tip_x, tip_y), *wings])
    body = _tag(
        "line", x1=round(x1 + 9 * dx, 1), y1=round(y1 + 9 * dy, 1), x2=round(tip_x, 1), y2=round(tip_y, 1), class_="arrow"
    )
    return _tag("g", body, _tag("polygon", points=head, class_="head"))


def _path(frame: Frame, line: Line, number: int) -> Markup:
    places = [frame.at(x, y) for x, y in _thinned(line.points)]
    paint = f"c{number % COLOURS}"
    corners = " ".join(f"{x},{y}" for x, y in places)
    drawn = [_tag("polyline", points=corners, class_=f"{paint} line", stroke_dasharray=DASHES[number % len(DASHES)] or "none")]
    for x, low, high in line.spans:
        (at, bottom), (_, top) = frame.at(x, low), frame.at(x, high)
        drawn.append(_tag("line", x1=at, x2=at, y1=bottom, y2=top, class_=f"{paint} error faint"))
    if line.dots:
        drawn += [_tag("circle", cx=x, cy=y, r=3, class_=f"{paint} mark") for x, y in places]
    return _tag("g", *drawn)


def _marked(frame: Frame, marks: Sequence[Mark], rows: Sequence[int]) -> list[Markup]:
    """Marks, to be drawn below the lines; labels stand above the axes, each in the first row where it has room."""
    drawn = []
    for mark, row in zip(_labelled(marks), rows, strict=True):
        x, y = frame.at(mark.x, frame.y[0])[0], frame.top - 4 - ROW * row
        drawn += [_tag("line", x1=x, x2=x, y1=y + 3, y2=frame.bottom, class_="event"), _text(x, y, mark.label, "tick middle")]
    for x in sorted({frame.at(mark.x, frame.y[0])[0] for mark in marks if not mark.label}):
        drawn.append(_tag("line", x1=x, x2=x, y1=frame.bottom - 6, y2=frame.bottom, class_="event short"))
    return drawn


def _labelled(marks: Sequence[Mark]) -> list[Mark]:
    return sorted((mark for mark in marks if mark.label), key=lambda mark: mark.x)


def _label_rows(places: Sequence[float], labels: Sequence[str]) -> list[int]:
    """The row of each label, the lowest that is free there; where none of ROWS is, the one whose last label ends first."""
    ends, rows = [-math.inf] * ROWS, []
    for x, label in zip(places, labels, strict=True):
        half = 4 * len(label) + 3
        row = next((i for i, end in enumerate(ends) if end <= x - half), ends.index(min(ends)))
        ends[row] = x + half
        rows.append(row)
    return rows


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal runs of points, so that a stage of thousands of steps stays a small drawing."""
    size = math.ceil(len(points) / MOST_POINTS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _axes(frame: Frame, x_label: str, y_label: str, *, percent: bool = False) -> Markup:
    shapes: list[Markup] = []
    for value in _ticks(*frame.y):
        y = frame.at(frame.x[0], value)[1]
        shapes += [
            _tag("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"),
            _text(frame.left - 7, y + 4, _tick(value, percent), "tick end"),
        ]
    for value in _ticks(*frame.x):
        x = frame.at(value, frame.y[0])[0]
        shapes.append(_text(x, frame.bottom + 18, _tick(value, percent), "tick middle"))
        if percent:
            shapes.append(_tag("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="grid"))
    middle = (frame.top + frame.bottom) / 2
    shapes.append(_tag("line", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom, class_="axis"))
    shapes.append(_text((frame.left + frame.right) / 2, frame.bottom + 38, x_label, "label middle"))
    shapes.append(_text(13, middle, y_label, "label middle", transform=f"rotate(-90 13 {middle})"))
    return _tag("g", *shapes)


def _across(frame: Frame, label: str) -> Markup:
    """A horizontal axis in shares with its grid, for rows that have names instead of a scale."""
    ticks = [(frame.at(value, 0)[0], _tick(value, True)) for value in _ticks(*frame.x)]
    grid = [_tag("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="grid") for x, _ in ticks]
    named = [_text(x, frame.bottom + 18, words, "tick middle") for x, words in ticks]
    return _tag("g", *grid, *named, _text((frame.left + frame.right) / 2, frame.bottom + 38, label, "label middle"))


def _key(parts: Sequence[str]) -> list[Markup]:
    drawn = []
    for i, part in enumerate(parts):
        x, y = (i % KEY_COLUMNS) * NARROW / KEY_COLUMNS, (i // KEY_COLUMNS) * 20
        drawn += [_tag("rect", x=x, y=y + 2, width=12, height=12, class_=f"c{i % COLOURS} bar"), _text(x + 18, y + 12, part, "")]
    return drawn


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside [low, high]."""
    raw = (high - low) / 4 or 1
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _ceiling(highs: Sequence[float]) -> float:
    """The next multiple of 5 % above the data, at most 100 %."""
    return min(1.0, max(0.05, math.ceil(max(highs, default=0) * 20 + 0.2) / 20))


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of the data, with some air; anchored at 0 or at 1 where the data comes near."""
    low, high = min(values), max(values)
    air = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return (0.0 if 0 <= low < (high - low) * 0.75 else low - air), (1.0 if 0.85 < high <= 1 else high + air)


def _spread(heights: Sequence[float], least: float) -> list[float]:
    """The same heights, moved down as little as needed to be `least` apart."""
    placed = list(heights)
    before = -math.inf
    for i in sorted(range(len(placed)), key=lambda i: placed[i]):
        placed[i] = before = max(placed[i], before + least)
    return placed


def _svg(width: float, height: float, title: str, shapes: Sequence[Markup], *, fixed: bool = False) -> Markup:
    """A drawing that fits its column, or a `fixed` one that keeps its size and scrolls where the column is narrower."""
    kind = "chart fixed" if fixed else "chart" if width >= WIDE else "chart narrow"
    size = {"width": f"{width:g}", "height": f"{height:g}"} if fixed else {}
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", **size, "class": kind, "role": "img"}
    return _tag("svg", _tag("title", escape(spelled_out(title))), *shapes, **attributes)


def _text(x: float, y: float, words: str, kind: str, **attributes: str) -> Markup:
    return _tag("text", escape(spelled_out(words)), x=round(x, 1), y=round(y, 1), class_=kind, **attributes)


def _tag(name: str, *children: Markup, **attributes: object) -> Markup:
    """An element; a trailing underscore keeps `class` writable, other underscores become hyphens."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{''.join(children)}</{name}>")
