"""The section "Does it say the same twice?": how answers to one prompt differ, and what that takes from safety.

Everything comes from summary.json (`prove.variability`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import charts, text
from temper.report.blocks import Block, Figure, Section, Table
from temper.report.read import Run

Told = Mapping[str, Any]

SAFE = {"safe_at_1": "one answer", "cons_safe_at_k": "at least half of K", "safe_at_k": "all K", "lost": "one minus all"}


def section(run: Run) -> Section | None:
    """None where every prompt was answered once."""
    found: Told | None = run.summary.get("variability")
    if not found:
        return None
    return Section("variability", "Does it say the same twice?", _lead(found), tuple(_blocks(found)))


def _lead(found: Told) -> str:
    safe = {arm: told["safe"] for arm, told in found["arms"].items() if told["safe"] and told["safe"]["lost"]["n"]}
    if not safe:
        return "Several answers to a prompt, compared with each other; gold judged too few to say what that takes from safety."
    arm = max(safe, key=lambda name: safe[name]["lost"]["value"])
    one, all_ = (text.percent(safe[arm][name]["value"]) for name in ("safe_at_1", "safe_at_k"))
    return (
        f"One answer of {arm} is safe in {one}, all {safe[arm]['k']} answers to a prompt are in {all_}: whoever asks again gets "
        "what one answer does not show."
    )


def _blocks(found: Told) -> Iterator[Block]:
    safe = {arm: told["safe"] for arm, told in found["arms"].items() if told["safe"] and told["safe"]["safe_at_1"]["n"]}
    if safe:
        yield _figure(safe)
    for name, meaning in found["measures"].items():
        classes = list(dict.fromkeys(of for told in found["arms"].values() for of in told["by_class"]))
        rows = tuple(
            (arm, *(_with(told["by_class"].get(of, {}).get(name), name) for of in classes)) for arm, told in found["arms"].items()
        )
        if any(cell != "–" for _, *cells in rows for cell in cells):
            yield Table(f"{name.capitalize()}: {meaning}", ("arm", *classes), rows)
    if found["pairs"]:
        rows = tuple(
            (f"{p['arm']} against {p['base']}", p["measure"], text.count(p["n"]), _with(p, p["measure"], change=True))
            for p in found["pairs"]
        )
        note = "Not corrected for their number."
        yield Table("More variable than the first arm?", ("arms", "measure", "prompts", "difference"), rows, note)


def _figure(safe: Mapping[str, Told]) -> Figure:
    title = "Harmful prompts answered safely: by one answer, with its interval, and by all of K (hollow)"
    drawn = [
        (arm, tuple(each["safe_at_1"][end] for end in ("value", "low", "high")), [each["safe_at_k"]["value"]])
        for arm, each in safe.items()
    ]
    rows = tuple(
        (arm, str(each["k"]), text.count(each["safe_at_1"]["n"]), *(_with(each[name], "outcomes") for name in SAFE))
        for arm, each in safe.items()
    )
    left = ", ".join(f"{arm} {each['left_out']}" for arm, each in safe.items() if each["left_out"])
    note = f"Prompts with fewer than K judged answers are left out: {left}." if left else "Every prompt has K judged answers."
    svg = charts.ranges(drawn, title=title, x_label="share of prompts")
    return Figure(title, svg, Table(title, ("arm", "K", "prompts", *SAFE.values()), rows, note))


def _with(estimate: Told | None, name: str, *, change: bool = False) -> str:
    shares = name in ("outcomes", "refusals")
    unit = "difference" if shares and change else "share" if shares else "score"
    value, interval = text.with_interval(estimate, unit)
    beside = text.unseen(estimate, unit) if estimate and change else ""
    return f"{value} ({interval}{beside})" if interval else value
