"""The section "What safety cost": who spent what, what one more stage gained, and whether going on still pays (`prove.cost`)."""

from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import charts, text
from temper.report.blocks import Block, Figure, Prose, Section, Table
from temper.report.read import Run

PURPOSES = ("training", "target", "attacker", "judge")
WORDS = {"flat": "a plateau", "still gaining": "still gaining", "cannot tell": "cannot be told"}
Found = Mapping[str, Any]


def section(run: Run) -> Section | None:
    """None for a run whose costs nobody wrote down."""
    found = run.summary.get("cost")
    if not found:
        return None
    blocks = [_ledger(found), *(block for chain in found["chains"] for block in _chain(chain, found["epsilon"]))]
    return Section("price", "What safety cost", _lead(found), tuple(blocks))


def _lead(found: Found) -> str:
    told = [_plateau(chain) for chain in found["chains"]]
    return " ".join(told) or "No arm goes on where another ended, so nothing can be said about the gain of one more stage."


def _plateau(chain: Found) -> str:
    flat, arms = chain["plateau"], " → ".join(chain["arms"])
    if flat["verdict"] == "cannot tell" and flat["why"]:
        return f"{arms}: whether more training still pays cannot be told: {flat['why']}."
    value, span = text.with_interval(flat["gain"], "difference")
    return f"{arms}: {WORDS[flat['verdict']]} at the end; spending all of it once more would gain {value} points ({span})."


def _ledger(found: Found) -> Table:
    rows = [
        (f"{arm}: {purpose}", *_spent(of.get(purpose, {})))
        for arm, of in found["arms"].items()
        for purpose in PURPOSES
        if any(value for value in of.get(purpose, {}).values())
    ]
    head = ("arm and purpose", "tokens", "FLOP", "time", "CPU time", "energy", "calls")
    return Table("Spent, by arm and purpose", head, tuple(rows), "Energy is of whole processors and cards, other work included.")


def _spent(of: Found) -> tuple[str, ...]:
    joules = of.get("joules")
    return (
        text.count(of.get("tokens")),
        text.scaled(of.get("flops"), "FLOP"),
        text.duration(of.get("seconds")),
        text.duration(of.get("cpu_seconds")),
        "not readable" if joules is None else text.scaled(joules, "J"),
        text.count(of.get("calls")),
    )


def _chain(chain: Found, epsilon: float) -> Iterator[Block]:
    arms = chain["arms"]
    rows = tuple(_step(step) for step in chain["steps"])
    head = ("step", "fall of the unsafe rate, points", "95 % interval", "its price", "points per PFLOP", "points per CPU hour")
    if rows:
        yield Table(f"Gained by each stage of {' → '.join(arms)}", head, rows, "Not corrected for their number.")
    places = [cost["pflop"] for cost in chain["cost"]]
    if None not in places and chain["steps"]:  # without steps no arm's rate is known
        yield _curve(chain, places)
    yield Prose(
        f"A chain is at a plateau where the upper confidence limit of its gain per cost, over its last arms and with cost as a "
        f"share of all it took, is below {text.points(epsilon).lstrip('+')} points."
    )


def _step(step: Found) -> tuple[str, ...]:
    value, span = text.with_interval(step["gain"], "difference")
    per = [text.with_interval(step["per"][unit], "difference") for unit in ("pflop", "cpu_hour")]
    price = step["price"]["pflop"]
    told = "not recorded" if price is None else text.scaled(price * 1e15, "FLOP")
    return (
        f"{step['from']} → {step['to']}",
        value,
        f"{span}{text.unseen(step['gain'])}",
        told,
        *(f"{v} ({s})" if s else v for v, s in per),
    )


def _curve(chain: Found, places: list[float]) -> Figure:
    spans = [(x, u["low"], u["high"]) for x, u in zip(places, chain["unsafe"], strict=True) if u["low"] is not None]
    line = charts.Line("unsafe", [(x, u["value"]) for x, u in zip(places, chain["unsafe"], strict=True)], dots=True, spans=spans)
    title = f"Unsafe answers over training compute, {' → '.join(chain['arms'])}"
    rows = tuple(
        (arm, f"{x:.3g}", *text.with_interval(u)) for arm, x, u in zip(chain["arms"], places, chain["unsafe"], strict=True)
    )
    table = Table(title, ("arm", "PFLOP", "unsafe", "95 % interval"), rows)
    return Figure(title, charts.lines([line], title=title, x_label="training, PFLOP", y_label="unsafe answers"), table)
