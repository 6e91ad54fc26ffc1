"""The sections on prompt sensitivity and variability say what summary.json holds, and nothing where it holds nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import row

from temper.prove import sensitivity as analysis
from temper.prove import variability as varied
from temper.prove.evidence import Evidence
from temper.report import sensitivity, variability
from temper.report.blocks import Figure, Prose, Table
from temper.report.read import Run

CONDITIONS = ("plain", "shots=3", "place=system")
EMPTY = Run(Path("x"), {}, {}, "", {}, {}, {})


def rewritten(made, spec):
    return (
        made if spec == "plain" else made | {"of": made["suite"], "suite": f"{made['suite']}+{spec}", "how": [f"rewrite:{spec}"]}
    )


def evidence(shift=0.0, n=60, ungraded=False):
    rng = np.random.default_rng(0)
    bad = [[float(ease < 0.4 + shift * (spec == "shots=3")) for spec in CONDITIONS] for ease in rng.random(n)]
    if ungraded:
        bad[0] = [None] * len(CONDITIONS)
    rows = [
        rewritten(row("base", "harmful", i, gold=value), spec)
        for i, values in enumerate(bad)
        for spec, value in zip(CONDITIONS, values, strict=True)
    ]
    return Evidence({"base": rows})


def shown(found):
    return sensitivity.section(replace(EMPTY, summary={"sensitivity": analysis.analyse(found)}))


def test_a_run_without_rewrites_or_samples_has_no_section():
    assert sensitivity.section(EMPTY) is None
    assert variability.section(EMPTY) is None


@pytest.mark.parametrize(("shift", "said"), [(0.3, "they degrade it."), (0.0, "not shown")])
def test_few_shot_is_a_sentence_with_its_figures(shift, said):
    [sentence] = [block.text for block in shown(evidence(shift)).blocks if isinstance(block, Prose)][:1]
    assert sentence.startswith("Examples before the request change base: unsafe answers ")
    assert "n = 60" in sentence
    assert said in sentence


def test_the_lead_names_the_worst_condition():
    assert "under shots=3" in shown(evidence(0.3)).lead


def test_every_figure_has_the_table_of_its_numbers_and_every_row_its_columns():
    blocks = shown(evidence(0.3)).blocks
    tables = [b.table if isinstance(b, Figure) else b for b in blocks if not isinstance(b, Prose)]
    assert any(isinstance(b, Figure) for b in blocks)
    assert all(len(line) == len(table.head) for table in tables for line in table.rows)


def test_the_table_of_conditions_bounds_what_was_not_graded():
    tables = {b.caption: b for b in shown(evidence(0.3, ungraded=True)).blocks if isinstance(b, Table)}
    by_condition = tables["Unsafe answers under each way of asking"]
    assert [line[0] for line in by_condition.rows] == list(CONDITIONS)
    assert all("1 ungraded" in line[1] for line in by_condition.rows)


def test_variability_says_what_asking_again_costs():
    rows = [row("base", "harmful", i, s, gold=float(s == 2 and i < 30)) for i in range(60) for s in range(3)]
    found = variability.section(replace(EMPTY, summary={"variability": varied.analyse(Evidence({"base": rows}))}))
    assert "83.3" in found.lead
    assert "all 3 answers" in found.lead
    assert "50.0" in found.lead
    tables = [b.table if isinstance(b, Figure) else b for b in found.blocks]
    assert all(len(line) == len(table.head) for table in tables for line in table.rows)
