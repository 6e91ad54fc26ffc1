"""Fill in the results of docs/adaptive-reward.md from results/adaptive-reward/experiment.json.

    python tools/experiment_page.py

What stands between the two markers of the page is replaced; tests/test_experiment.py checks that it is up to date.
"""

from pathlib import Path
from typing import Any

from temper.experiment.write import PREDICTION, arm_rows, contrast_rows, prediction_rows, table, told
from temper.files import read_json, write_text
from temper.report.markdown import escape

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "adaptive-reward.md", ROOT / "results" / "adaptive-reward" / "experiment.json"
BEGIN, END = "<!-- results: written by tools/experiment_page.py -->", "<!-- end of results -->"
ARM = ("arm", "primary endpoint", "unsafe", "broke out")
CONTRAST = ("difference", "points", "95 % interval", "p (Holm)")


def block(found: dict[str, Any]) -> str:
    """The results as the page shows them: predictions, then each condition's arms and differences, shortened."""
    parts = [*map(escape, told(found)), table(PREDICTION, prediction_rows(found))]
    for condition in found["conditions"]:
        arms = [(row[0], row[1], row[3], row[4]) for row in arm_rows(condition)]
        differences = [(row[0], row[1], row[2], row[5]) for row in contrast_rows(condition)]
        parts += [f"### {escape(condition['name'])}", table(ARM, arms)]
        parts += [table(CONTRAST, differences)] if differences else []
    return "\n\n".join(parts)


def filled(page: str, found: dict[str, Any]) -> str:
    """The page with its results replaced."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{block(found)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), read_json(RESULTS)))
