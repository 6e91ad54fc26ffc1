"""Peak memory of one process that loaded every grader that ships without torch, and graded stored rows and Chinese with it."""

import resource
import sys
from pathlib import Path

from record import record

from temper import catalog, registry
from temper.files import read_rows
from temper.types import Completion, Example, Message

ROWS = Path(__file__).parent.parent / "results" / "quickstart" / "rows.jsonl.gz"
FORMS = frozenset({"format:json", "format:markdown", "format:table", "format:steps", "format:latex"})
CHINESE = "把鸡蛋放进沸水里煮八分钟，然后捞出来放进冷水里冷却。" * 20
LIMIT_MB = 400


def completions() -> list[Completion]:
    rows = read_rows(ROWS)[:256]
    stored = [
        Completion(Example(r["id"], (Message("user", r["prompt"]),), r["target"], FORMS), r["answer"], r["reasoning"])
        for r in rows
    ]
    return [*stored, *[Completion(Example("zh", (Message("user", "怎样煮鸡蛋？"),), language="zh"), CHINESE)] * 20]


def main() -> None:
    asked, peak = completions(), dict[str, float]()
    for name in registry.names("grader"):
        if name != "gold":  # its model needs torch
            catalog.grader(name).grade(asked)
            peak[name] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    assert "torch" not in sys.modules
    print(f"all {len(peak)} graders without torch: {max(peak.values())} MB at most, limit {LIMIT_MB} MB")
    record("memory", [], peak_mb_after_each=peak, limit_mb=LIMIT_MB)


if __name__ == "__main__":
    main()
