"""The numbers of a drawing as a table, so that no figure is the only place where a number can be read."""

from collections.abc import Mapping, Sequence

from temper.report import text
from temper.report.blocks import Table
from temper.report.charts import Interval, Line, Point

ROWS = 20  # of a table made from lines; the steps between them stay in metrics.jsonl


def of_lines(caption: str, x_label: str, found: Sequence[Line]) -> Table:
    """Each line as a column, at the places of the line that was measured least often, thinned evenly to ROWS of them."""
    drawn = [line for line in found if line.points]
    places = [x for x, _ in min((line.points for line in drawn), key=len, default=[])]
    kept = places if len(places) <= ROWS else [places[i * (len(places) - 1) // (ROWS - 1)] for i in range(ROWS)]
    columns = [(dict(line.points), {x: (low, high) for x, low, high in line.spans}) for line in drawn]
    rows = tuple((f"{x:g}", *(_at(x, values, spans) for values, spans in columns)) for x in kept)
    note = f"{len(kept)} of {len(places)} places, evenly spread." if len(kept) < len(places) else ""
    return Table(caption, (x_label, *(line.label for line in drawn)), rows, note)


def of_points(caption: str, x_label: str, y_label: str, points: Sequence[Point]) -> Table:
    """Each point as a line with both of its shares and their intervals."""
    return Table(caption, ("arm", x_label, y_label), tuple((p.label, share(p.x), share(p.y)) for p in points))


def of_heat(
    caption: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], Interval | None],
    counts: Mapping[tuple[str, str], int],
    *,
    what: str,
) -> Table:
    """Each cell of a heat map with its interval and how many prompts it rests on; `what` names the rows."""
    cells = tuple((r, *(_cell(values.get((r, c)), counts.get((r, c))) for c in columns)) for r in rows)
    return Table(caption, (what, *columns), cells, "Share, 95 % interval, number of prompts.")


def share(found: Interval) -> str:
    return f"{text.percent(found[0])} ({text.span(found[1], found[2])})"


def _cell(found: Interval | None, n: int | None) -> str:
    return "–" if found is None else f"{share(found)}; n {text.count(n)}"


def _at(x: float, values: Mapping[float, float], spans: Mapping[float, tuple[float, float]]) -> str:
    if x not in values:
        return "–"
    within = f" ({text.span(*spans[x], 'score')})" if x in spans else ""
    return f"{text.decimal(values[x], 3)}{within}"
