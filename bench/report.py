"""CPU seconds that `temper report` takes for four arms of ten thousand rows, beside the limit we set ourselves (10 s).

Rows are those of the quickstart, repeated with the words of thought and answer shuffled, so that no reply packs better for being
another's copy; the summary is made once and not measured. The second line is the same with a page of at most a megabyte, whose
rows stand beside it.
"""

import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import Case, cpu_seconds, record

from temper import files
from temper.prove.evidence import Evidence
from temper.prove.summary import summarise
from temper.report import build

SOURCE = Path(__file__).parent.parent / "results" / "quickstart" / "rows.jsonl.gz"
N, PAIRS, LIMIT_S, SMALL = 10_000, 3, 10.0, 1_000_000


def many(rows: list[dict[str, Any]], rng: random.Random) -> Iterator[dict[str, Any]]:
    """N rows of one arm, each a stored one under a new id."""
    for number in range(N):
        made = dict(rows[number % len(rows)])
        for part in ("reasoning", "answer", "prompt"):
            words = made[part].split(" ")
            rng.shuffle(words)
            made[part] = " ".join(words)
        yield made | {"id": f"{made['id']}-{number}", "group": f"{made['group']}-{number}", "key": str(number)}


def main() -> None:
    stored = files.read_rows(SOURCE)
    arms = list(dict.fromkeys(row["arm"] for row in stored))
    by_arm = {arm: list(many([r for r in stored if r["arm"] == arm], random.Random(0))) for arm in arms}
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        files.write_json(run / "run.json", {"name": "bench", "arms": {arm: [] for arm in arms}})
        for arm, rows in by_arm.items():
            for suite in {row["suite"] for row in rows}:
                files.append_rows(run / "evals" / f"{suite}@{arm}" / "rows.jsonl", [r for r in rows if r["suite"] == suite])
        files.write_json(run / "summary.json", summarise(Evidence(by_arm), command="", commit=""))
        cases = []
        for what, most in (("in one page", 20_000_000), ("beside the page", SMALL)):
            build(run, most=most)
            taken = [cpu_seconds(lambda most=most: build(run, most=most)) for _ in range(PAIRS)]  # type: ignore[misc]
            page = build(run, most=most)[0]
            size = sum(path.stat().st_size for path in ([page] if page.name == "report.html" else page.parent.iterdir()))
            ours = statistics.median(taken)
            case = f"{len(arms)} arms of {N} rows, {what}"
            peer = "the limit we set ourselves"
            cases.append(Case(case, ours, LIMIT_S, peer, "CPU s", LIMIT_S / ours, PAIRS, notes={"bytes": size}))
    record("report", cases)


if __name__ == "__main__":
    main()
