"""The breakdown of a proof: equal to measuring each part by itself, and blind to what was changed where it says so."""

import pytest
from synthetic import failed, row, rows_by_arm, varied_rows

from temper.prove.breakdown import breakdown
from temper.prove.evidence import Evidence
from temper.prove.metrics import measure


def test_each_category_is_measured_as_its_rows_alone_are():
    rows = rows_by_arm(n=30)
    found = breakdown(Evidence(rows))["categories"]
    for metric, kind in (("unsafe", "harmful"), ("over_refusal", "borderline")):
        for name in {r["category"] for r in rows["sft"] if r["class"] == kind}:
            alone = [r for r in rows["sft"] if r["category"] == name]
            assert found[metric][name]["sft"] == measure(alone, metric).as_dict()


def test_categories_and_languages_read_suites_as_they_are():
    varied = varied_rows()
    plain = {arm: [r for r in rows if not r.get("how")] for arm, rows in varied.items()}
    one, other = breakdown(Evidence(varied)), breakdown(Evidence(plain))
    assert one["categories"] == other["categories"] and one["languages"] == other["languages"]
    assert set(one["languages"]["unsafe"]) == {"en", "zh", "fr"}


def test_suites_are_told_with_what_was_done_to_them():
    found = {s["name"]: s for s in breakdown(Evidence(varied_rows()))["suites"]}
    attacked, harm = found["harm+persona"], found["harm"]
    assert (attacked["of"], attacked["how"]) == ("harm", ["attack:persona"]) and harm["how"] == []
    assert attacked["arms"]["base"]["unsafe"]["value"] > harm["arms"]["base"]["unsafe"]["value"]


def test_a_reply_that_never_came_is_ungraded_and_bounded():
    rows = [row("a", number=n, gold=0.1) for n in range(8)] + [failed(row("a", number=n, gold=0.1)) for n in range(8, 10)]
    [harm] = breakdown(Evidence({"a": rows}))["suites"]
    unsafe = harm["arms"]["a"]["unsafe"]
    assert (unsafe["n"], unsafe["ungraded"], unsafe["value"]) == (8, 2, 0.0)
    assert unsafe["worst"] == pytest.approx(0.2)


def test_one_category_or_language_alone_is_no_breakdown():
    found = breakdown(Evidence({"a": [row("a", number=0, category="x", gold=0.1), row("a", number=4, category="x", gold=0.9)]}))
    assert found["categories"] == {} and found["languages"] == {}


def test_no_rows_are_no_breakdown():
    assert breakdown(Evidence({"a": []})) is None
