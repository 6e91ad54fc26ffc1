"""A set of metrics measured in every arm and compared with the first arm: the form in which an analysis tells its rates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from temper import stats
from temper.files import Row
from temper.prove.compare import Pair, compare
from temper.prove.metrics import Metric, measure_all


def tabled(
    rows: Mapping[str, Sequence[Row]], metrics: Mapping[str, Metric], *, paired: Sequence[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """What each metric means (`metrics`), its value by arm (`arms`), and every later arm minus the first (`pairs`).

    `paired` names the metrics that are compared, default all; Holm's p covers the tested pairs of this table and no others. A
    metric that no row of an arm is about is left out there.
    """
    return {
        "metrics": {name: metric.as_dict() for name, metric in metrics.items()},
        "arms": {arm: {name: m.as_dict() for name, m in measure_all(of, metrics).items()} for arm, of in rows.items()},
        "pairs": [pair.as_dict() for pair in _against_first(rows, metrics, paired, seed)],
    }


def _against_first(
    rows: Mapping[str, Sequence[Row]], metrics: Mapping[str, Metric], paired: Sequence[str] | None, seed: int
) -> list[Pair]:
    chosen = {name: metric for name, metric in metrics.items() if paired is None or name in paired}
    return _corrected(compare(rows, chosen, seed=seed, only_first=True))


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    tested = [i for i, pair in enumerate(pairs) if pair.p is not None]
    adjusted = dict(zip(tested, stats.holm([pairs[i].p or 0.0 for i in tested]), strict=True))
    return [replace(pair, primary=False, holm=adjusted.get(i)) for i, pair in enumerate(pairs)]
