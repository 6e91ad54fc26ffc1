"""Blocks and drawings: the same content in HTML and Markdown, numbers beside every figure, colours that can be read."""

import json
import re
from dataclasses import replace
from importlib.resources import files as resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import rows_by_arm, varied_rows, write_run

from temper.report import build, charts, sections, tables, text
from temper.report.blocks import Figure, Folded, Prose, Section, Table, halves
from temper.report.breakdown import categories, languages, proxy, suites
from temper.report.markdown import blocks
from temper.report.read import read_run

CSS = resources("temper.report").joinpath("page.css").read_text()
HOSTILE = "</td></table><script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "varied", varied_rows())


@pytest.fixture(scope="module")
def html(varied):
    return build(varied)[0].read_text()


def hostile_section(run):
    table = Table(HOSTILE, (HOSTILE, "share"), ((HOSTILE, "1 (2)"),), HOSTILE)
    drawn = charts.heat([HOSTILE], [HOSTILE], {(HOSTILE, HOSTILE): (0.5, 0.4, 0.6)}, title=HOSTILE)
    inner = (Prose(HOSTILE), table, Figure(HOSTILE, drawn, table))
    return Section("hostile", HOSTILE, HOSTILE, (*inner, Folded(HOSTILE, inner, rows="suite=<b>")))


def test_a_section_of_any_blocks_is_shown_in_both_forms_with_its_text_inert(varied, html, monkeypatch):
    monkeypatch.setattr(sections, "SECTIONS", (hostile_section,))
    monkeypatch.setattr(sections, "OPENING", (lambda run: Section("first", "What the report opens with", "Found."),))
    page, plain = (path.read_text() for path in build(varied))
    assert page.index('id="first"') < page.index('id="harm"') < page.index('id="hostile"')
    assert page.count("<script>") == html.count("<script>") and "alert(1)" in page
    assert "\u202e" not in page + plain and not re.search(r"<[a-zA-Z/]", plain)
    assert "## What the report opens with" in plain and plain.count("alert(1)") > 8
    build(varied)


def test_every_drawing_stands_with_the_table_of_its_numbers(html):
    figures = re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    assert len(figures) > 12 and all("<table" in f and "<figcaption>" in f for f in figures)
    assert html.count('class="chart') == sum(f.count('class="chart') for f in figures)


def test_every_section_is_in_the_contents_under_its_name(html):
    listed = re.findall(r'<li><a href="#([\w-]+)">', html.split("</nav>")[0])
    assert listed == re.findall(r'<section id="([\w-]+)"', html)


def test_a_folded_block_stands_open_in_markdown():
    told = list(blocks([Folded("suite", (Prose("inside"),), rows="suite=x")]))
    assert told == ["**suite**", "inside"]


@pytest.mark.parametrize(
    ("column", "numeric"),
    [
        (("12.3 % (1 to 2; n 3)", "–"), True), (("−0.1", "+3", "< 0.001"), True), (("not measured", "4"), True),
        (("detected", "4"), False), (("gpt-2",), False),
    ],
)  # fmt: skip
def test_a_column_stands_to_the_right_if_it_holds_numbers_alone(column, numeric):
    assert Table("", ("name", "value"), tuple(("1", cell) for cell in column)).numeric == (False, numeric)


def test_what_stands_in_parentheses_goes_below_its_number():
    assert halves("1.0 % (0.5 to 2.0; n 9)") == ("1.0 %", "0.5 to 2.0; n 9")
    assert halves("a (b) (c)") == ("a (b) (c)", "") and halves("plain") == ("plain", "")


def test_a_heat_map_shows_each_share_with_its_interval_and_a_dash_where_there_is_none():
    drawn = str(charts.heat(["r"], ["a", "b"], {("r", "a"): (0.5, 0.25, 0.75), ("r", "b"): None}, title="t"))
    assert ">50 %<" in drawn and ">25–75<" in drawn and drawn.count(">–<") == 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_share_is_never_a_weaker_colour(one, other):
    def strength(share):
        return float(re.search(r'fill-opacity="([\d.]+)"', charts.heat(["r"], ["c"], {("r", "c"): (share, 0, 1)}, title="t"))[1])

    low, high = sorted((one, other))
    assert strength(low) <= strength(high) + 1e-3


def test_a_name_too_long_for_a_drawing_stands_whole_in_its_table():
    name = "a category with a name that no drawing has any room for at all"
    cells = {(name, "arm"): (0.5, 0.4, 0.6)}
    assert name not in charts.heat([name], ["arm"], cells, title="t")
    assert tables.of_heat("t", [name], ["arm"], cells, {(name, "arm"): 7}, what="category").rows[0] == (
        name,
        "50.0\xa0% (40.0 to 60.0); n 7",
    )


def boxes(drawn):
    """Left, top, right and bottom of each name beside a point, at seven pixels a letter."""
    for x, y, name in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" class="c\d name halo">([^<]*)<', drawn):
        yield float(x), float(y) - 10, float(x) + 7 * len(name), float(y) + 2


shares = st.floats(0, 1).map(lambda v: (v, max(0.0, v - 0.05), min(1.0, v + 0.05)))


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=8), st.integers(0, 8))
def test_names_of_arms_never_meet_and_stay_within_the_drawing(places, tied):
    found = [charts.Point(f"arm-number-{i}", *places[0 if i < tied else i]) for i in range(len(places))]
    drawn = str(charts.frontier(found, title="t", x_label="x", y_label="y"))
    named = list(boxes(drawn))
    assert len(named) == len(places)
    assert all(left >= 0 and right <= charts.WIDE and top >= 0 and bottom <= 340 for left, top, right, bottom in named)
    for i, a in enumerate(named):
        assert not [b for b in named[:i] if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]


def test_the_name_of_an_arm_that_never_over_refuses_is_not_written_over_the_numbers_of_the_axis():
    bars = [(0.0, 0.0, 0.053), (0.015, 0.003, 0.079), (0.021, 0.004, 0.109), (0.062, 0.021, 0.168)]
    unsafe = [(0.096, 0.042, 0.206), (0.0, 0.0, 0.069), (0.042, 0.007, 0.202), (0.042, 0.007, 0.202)]
    found = [charts.Point(n, x, y) for n, x, y in zip(("base", "hybrid", "model", "model+guard"), bars, unsafe, strict=True)]
    drawn = str(charts.frontier(found, title="t", x_label="x", y_label="y"))
    ticks = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="tick end"', drawn)]
    written = [
        (name, tick)
        for name in boxes(drawn)
        for tick in ticks
        if name[0] < tick[0] and name[1] < tick[1] and tick[1] - 10 < name[3]
    ]
    assert len(ticks) == 3 and not written


def test_markers_that_hide_each_other_are_repeated_beside_their_names():
    apart, tied = (
        str(charts.frontier([charts.Point(n, x, (0.1, 0.0, 0.2)) for n, x in places], title="t", x_label="x", y_label="y"))
        for places in (
            [("a", (0.1, 0.0, 0.2)), ("b", (0.6, 0.5, 0.7))],
            [("a", (0.1, 0.0, 0.2)), ("b", (0.1, 0.0, 0.2))],
        )
    )
    assert (apart.count(' mark"'), tied.count(' mark"')) == (2, 4)


def test_lines_are_tabled_at_the_places_of_the_one_measured_least_often():
    dense = charts.Line("proxy", [(x, x / 100) for x in range(100)])
    rare = charts.Line("gold", [(10, 0.5), (90, 0.25)], spans=[(10, 0.4, 0.6)])
    table = tables.of_lines("c", "step", [dense, rare])
    assert table.head == ("step", "proxy", "gold")
    assert table.rows == (("10", "0.100", "0.500 (0.40 to 0.60)"), ("90", "0.900", "0.250"))
    assert len(tables.of_lines("c", "step", [dense]).rows) == tables.ROWS


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(top, below, strength):
    return "#" + "".join(
        f"{round(strength * int(top[i : i + 2], 16) + (1 - strength) * int(below[i : i + 2], 16)):02x}" for i in (1, 3, 5)
    )


PALETTES = [
    {name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:]) for name, value in found}
    for found in (re.findall(r"--(\w+): (#[0-9a-f]+)", block) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL))
]


@pytest.mark.parametrize("palette", PALETTES, ids=["light", "dark", "print"])
def test_text_in_any_colour_of_the_page_has_a_contrast_of_four_and_a_half(palette):
    for name in ("ink", "soft", *(f"c{i}" for i in range(charts.COLOURS))):
        assert contrast(palette[name], palette["paper"]) >= 4.5, name
    grounds = [palette["wash"], palette["mark"], mixed(palette["c2"], palette["paper"], charts.STRONGEST)]
    assert all(contrast(palette["ink"], ground) >= 4.5 for ground in grounds)


def test_suites_categories_languages_and_the_proxy_show_the_numbers_of_the_summary(varied):
    run = read_run(varied)
    found = json.loads((varied / "summary.json").read_text())["breakdown"]
    heat = next(b for b in categories(run).blocks if "Unsafe" in b.caption)
    fraud = found["categories"]["unsafe"]["fraud"]["rl"]
    told = {row[0]: row for row in heat.table.rows}["fraud"][1 + run.arms.index("rl")]
    assert told.startswith(f"{100 * fraud['value']:.1f}") and told.endswith(f"n {fraud['n']}")
    assert [row[0] for row in languages(run).blocks[0].rows] == ["en", "fr", "zh"]
    harm = next(b for b in suites(run).blocks if isinstance(b, Folded) and b.title.startswith("harm:"))
    assert harm.rows == "suite=harm" and {row[0] for row in harm.blocks[-1].rows} == {"attack:persona", "rewrite:shots=3"}
    assert len(proxy(run).blocks[0].table.rows) == len(run.arms)


@pytest.mark.parametrize(("low", "said"), [(0.2, "hybrid is least safe on fraud"), (0.0, "No category stands out")])
def test_a_category_stands_out_only_if_its_interval_lies_above_the_whole(varied, low, said):
    run = read_run(varied)
    summary = json.loads((varied / "summary.json").read_text())
    summary["breakdown"]["categories"]["unsafe"]["fraud"]["hybrid"] |= {"value": 0.99, "low": low}
    summary["arms"]["hybrid"]["unsafe"]["value"] = 0.1
    assert categories(replace(run, summary=summary)).lead.startswith(said)


def test_a_run_summarised_before_there_was_a_breakdown_has_no_such_section(tmp_path):
    folder = write_run(tmp_path / "old", rows_by_arm(n=4))
    summary = json.loads((folder / "summary.json").read_text())
    del summary["breakdown"]
    (folder / "summary.json").write_text(json.dumps(summary))
    run = read_run(folder)
    assert suites(run) is categories(run) is languages(run) is None
    assert 'id="categories"' not in build(folder)[0].read_text()


def test_a_difference_that_is_not_distinguishable_says_what_would_have_been_seen():
    told = {"value": 0.01, "low": -0.02, "high": 0.04, "mde": 0.043}
    assert text.unseen(told) == "; smallest detectable 4.3"
    assert text.unseen({**told, "low": 0.005}) == text.unseen({**told, "mde": None}) == ""
