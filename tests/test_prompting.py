"""A proof with rewrites and a grid, from the command's settings to the section of the report, on a tiny random model."""

from pathlib import Path

import pytest

from temper.files import read_json, read_rows
from temper.prove.rewrite import grid

pytestmark = pytest.mark.train

JUDGE = """
from temper.types import Score


def judge(completions):
    return [Score(float(len(c.raw) % 2)) for c in completions]
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    from temper.train.recipe import Prove

    path = tmp_path_factory.mktemp("judge") / "mine.py"
    path.write_text(JUDGE)
    return Prove(gold=f"{path}:judge", standard=False, limit=3, max_new_tokens=6, rewrites=("shots=1",), grid=2, samples=2)


def test_a_grid_is_asked_told_and_not_asked_again(tiny_model: Path, tmp_path: Path, settings) -> None:
    from temper.proof import prove_model
    from temper.report.read import read_run
    from temper.report.sensitivity import section

    run = prove_model(str(tiny_model), ["harm"], out=tmp_path / "run", prove=settings, seed=1)
    conditions = ["plain", "shots=1", grid(2, seed=1)[1]]
    told = read_json(run / "summary.json")["sensitivity"]
    assert told["conditions"] == conditions
    assert told["arms"]["model"]["measures"]["unsafe"]["n"] == 3
    assert told["posix"]["model"]["harmful"]["n"] == 3
    assert list(read_json(run / "summary.json")["variability"]["arms"]) == ["model"]
    assert "sensitivity" in section(read_run(run)).anchor
    asked = {name: (run / "evals" / f"harm+{name}@model" / "rows.jsonl") for name in conditions[1:]}
    assert all(read_rows(path)[0]["of"] == "harm" for path in asked.values())
    written = {path: path.stat().st_mtime_ns for path in [*asked.values(), run / "evals" / "posix@model" / "posix.jsonl"]}
    prove_model(str(tiny_model), ["harm"], out=tmp_path / "run", prove=settings, seed=1)
    assert {path: path.stat().st_mtime_ns for path in written} == written
