"""A row of bars as SVG, one for each day. Colours come from the page's style; every number also stands in a table beside it."""

from collections.abc import Sequence

from markupsafe import Markup

WIDE, HIGH, FOOT, HEAD = 320, 120, 18, 14


def bars(days: Sequence[tuple[str, float]], title: str) -> Markup:
    """Bars from zero; the highest is labelled, and the first and last day."""
    top = max((value for _, value in days), default=0.0)
    step = WIDE / max(len(days), 1)
    shapes = [
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>').format(
            i * step + 1, HIGH - FOOT - height, max(step - 2, 1), height, day, figure(value)
        )
        for i, (day, value) in enumerate(days)
        if (height := (HIGH - FOOT - HEAD) * value / top if top else 0.0) > 0
    ]
    axis = Markup('<line class="axis" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDE, HIGH - FOOT, HIGH - FOOT)
    words = [Markup('<text x="0" y="10">{}</text>').format(f"highest {figure(top)}")]
    if days:
        words.append(Markup('<text x="0" y="{}">{}</text>').format(HIGH - 4, days[0][0]))
        words.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(WIDE, HIGH - 4, days[-1][0]))
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDE, HIGH, f"{title}, by day")
    return head + axis + Markup("").join([*shapes, *words]) + Markup("</svg>")


def figure(value: float) -> str:
    """A number as a label: whole where it is, else three significant digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
