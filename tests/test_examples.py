"""Every example runs as its docstring says."""

import subprocess
import sys
from pathlib import Path

from temper import Completion, Example, Message
from temper.catalog import grader

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_example_grader_is_found_by_file_and_name_and_grades() -> None:
    mine = grader(f"{EXAMPLES / 'my_grader.py'}:asks_back")
    example = Example("1", (Message("user", "hi"),))
    scores = mine.grade([Completion(example, "Why?"), Completion(example, "No."), Completion(example, "")])
    assert [s.value for s in scores] == [1.0, 0.0, None]


def test_the_other_example_grader_says_that_low_is_good() -> None:
    loud = grader(f"{EXAMPLES / 'my_grader.py'}:shouting")
    example = Example("1", (Message("user", "hi"),))
    assert loud.better == "low"
    assert [s.value for s in loud.grade([Completion(example, "NO!"), Completion(example, "No!")])] == [1.0, 0.5]


def test_the_ten_lines_print_a_rate_with_its_interval() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "ten_lines.py")], capture_output=True, text=True, check=True, timeout=240
    )
    assert "over-refusal Estimate(value=0.125, n=40" in done.stdout


def test_every_example_fits_fifteen_lines_of_code() -> None:
    for path in EXAMPLES.glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith(("#", '"""'))]
        assert len(lines) <= 15, path.name
