"""The report of a synthetic run: what it says, what it survives, and what hostile text cannot do to it."""

import base64
import gzip
import hashlib
import json
import random
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ARMS, changed, drawn_row, failed, row, rows_by_arm, run_facts, write_gamed_run, write_run

from temper import files
from temper.errors import StorageError
from temper.report import build, charts, results
from temper.report.examples import choose
from temper.report.markdown import escape
from temper.report.page import cost_table
from temper.report.read import read_run
from temper.report.text import duration, percent, points, scaled
from temper.text.invisible import spelled_out

VOID = {"meta", "input", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</style><style>*{display:none}</style>",
    "<img src=x onerror=alert(3)>",
    '" onmouseover="alert(4)',
    "{{ 7*191 }}{% raw %}",
    "</textarea></title></article></main>",
    "<a href='javascript:alert(5)'>here</a>",
    "--><svg onload=alert(6)>",
    "&lt;b&gt; &#x3c;i&#x3e;",
]


class Page(HTMLParser):
    """Every element with its attributes, the text, and the tags that were closed without being open."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open, self.stray = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.stray.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def scripts(page):
    """The elements that a browser runs; those with a type of text hold data."""
    return [a for tag, a in page.elements if tag == "script" and a.get("type") != "text/plain"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "synthetic", rows_by_arm(n=40))


@pytest.fixture(scope="module")
def html(run):
    return build(run)[0].read_text()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run in which every string that a model, a recipe or a grader can influence is an attack."""
    attack = "".join(HOSTILE) + "a\u202egpj.exe\u202c\u2066\x00\x1b[31m\ud800"
    spoken = dict.fromkeys(("prompt", "answer", "reasoning", "category"), attack)
    by_arm = rows_by_arm(n=6)
    rows = {arm: [{**r, **spoken} for r in of if r["class"] == "harmful"] for arm, of in by_arm.items()}
    for of in rows.values():
        for r in of:
            r["scores"] = {**r["scores"], attack[:80]: {"value": 0.5, "why": attack, "parts": {}}}
    facts = run_facts()
    printable = "".join(HOSTILE)
    facts |= {"name": printable, "command": printable, "commit": printable}
    facts["graders"] = {printable: {"identity": printable, "role": "gold", "card": printable}}
    folder = tmp_path_factory.mktemp("runs") / "hostile"
    write_run(folder, by_arm, facts)
    for arm, of in rows.items():
        (folder / "evals" / f"harm@{arm}" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in of))
    return build(folder)


def test_the_page_asks_for_nothing_outside_itself(html):
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "embed", "base", "audio", "video"} & {tag for tag, _ in page.elements}
    assert not [a for _, a in page.elements if "src" in a or a.get("href", "#")[0] != "#"]
    assert "url(" not in html and "@import" not in html and "http" not in html.replace("http-equiv", "")


MANY = [f"arm-{n}-of-many" for n in range(12)]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A run with twelve arms that differ in nothing but the draw."""
    rng, asked = random.Random(0), [(kind, n) for kind in ("harmful", "borderline") for n in range(6)]
    by_arm = {arm: [drawn_row(rng, "sft", kind, n, 0, rng.random()) | {"arm": arm} for kind, n in asked] for arm in MANY}
    facts = {**run_facts(), "arms": {arm: ["sft"] for arm in MANY}}
    return build(write_run(tmp_path_factory.mktemp("runs") / "crowded", by_arm, facts))


def test_a_run_of_many_arms_compares_them_with_the_first_and_says_where_the_rest_is(crowded):
    page, plain = Page(crowded[0].read_text()), crowded[1].read_text()
    pairs = json.loads((crowded[0].parent / "summary.json").read_text())["pairs"]
    minus = "\N{MINUS SIGN}"
    shown = set(re.findall(rf"(arm-\S+) {minus} (arm-\w+-of-many)", page.text))
    assert shown == {(arm, MANY[0]) for arm in MANY[1:]}
    said = f"Of the {sum(p['primary'] for p in pairs)} comparisons of 12 arms only those with {MANY[0]} are shown"
    assert said in page.text and said in plain
    assert plain.count(f"{minus} {MANY[0]} |") == sum(p["primary"] and p["base"] == MANY[0] for p in pairs)


def test_the_sentence_at_the_top_names_the_best_of_many_arms_as_chosen(crowded):
    arms = json.loads((crowded[0].parent / "summary.json").read_text())["arms"]
    lowest = min(of["unsafe"]["value"] for of in arms.values())
    [said] = re.findall(
        r"Of 12 arms (\S+) has the lowest rate of unsafe answers .* It was chosen for that", crowded[1].read_text()
    )
    assert arms[said]["unsafe"]["value"] == lowest


def test_more_points_than_have_room_for_a_name_have_numbers_that_do_not_meet():
    points = [charts.Point(name, (0.1, 0.05, 0.2), (0.0, 0.0, 0.1)) for name in MANY]
    drawn = str(charts.frontier(points, title="t", x_label="x", y_label="y"))
    numbers = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="c\d name halo', drawn)]
    assert len(numbers) == len(MANY)
    assert all(abs(a - c) >= 17 or abs(b - d) >= 12 for i, (a, b) in enumerate(numbers) for c, d in numbers[:i])
    assert all(drawn.count(f">{name}</text>") == 1 for name in MANY)


def test_the_policy_allows_the_pages_own_style_and_script_and_no_other(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        assert f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [a for _, a in Page(html).elements if "style" in a]


def test_hostile_text_opens_no_element_and_sets_no_attribute(hostile, html):
    page, clean = Page(hostile[0].read_text()), Page(html)
    assert (len(scripts(page)), page.count("style")) == (1, 1)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert {key for _, a in page.elements for key in a} <= {key for _, a in clean.elements for key in a}
    assert page.stray == clean.stray == [] and page.open == []


def test_hostile_text_is_shown_as_it_was_written(hostile):
    page = Page(hostile[0].read_text())
    for attack in HOSTILE:
        assert attack in page.text


def test_characters_that_reorder_or_hide_text_are_spelled_out(hostile):
    for path in hostile:
        content = path.read_text()
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", content)
    assert "a[U+202E]gpj.exe[U+202C][U+2066][U+0000][U+001B]" in Page(hostile[0].read_text()).text
    assert "[U+D800]" in hostile[0].read_text()


def test_hostile_text_is_no_markup_in_markdown_either(hostile):
    lines = hostile[1].read_text().splitlines()
    assert not [line for line in lines if re.search(r"<[a-zA-Z/]", line)]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines if line.startswith("| command"))


@given(st.text())
def test_escaped_markdown_is_one_line_without_live_markup(words):
    escaped = escape(words)
    assert "\n" not in escaped and "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]]", escaped)


@given(st.text())
def test_visible_text_has_no_hidden_character_and_is_stable(words):
    once = spelled_out(words)
    assert spelled_out(once) == once
    assert once.encode("utf-8").decode() == once


def test_letters_of_every_script_and_joined_emoji_stay_as_they_are():
    words = "naïve Ελλ 中文 עברית فارسی‌ها हिन्दी 👩‍🔬"
    assert spelled_out(words) == words


def test_every_table_has_a_caption_and_every_heading_cell_a_scope(html):
    page = Page(html)
    assert page.count("table") == page.count("caption") > 8
    assert not [a for tag, a in page.elements if tag == "th" and a.get("scope") not in ("row", "col")]


def test_every_figure_has_a_name_for_readers_who_do_not_see_it(html):
    drawings = re.findall(r"<svg[^>]*>(?:<title>[^<]+</title>)?", html)
    assert drawings and all("<title>" in d or 'aria-hidden="true"' in d for d in drawings)


def test_every_link_inside_the_page_leads_somewhere(html):
    page = Page(html)
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["href"][1:].partition("?")[0] for tag, a in page.elements if tag == "a"} <= ids


def test_the_headline_shows_the_numbers_of_the_summary(run, html):
    unsafe = json.loads((run / "summary.json").read_text())["arms"]["hybrid"]["unsafe"]
    assert (
        f"{percent(unsafe['value'])}<small>{100 * unsafe['low']:.1f} to {100 * unsafe['high']:.1f}; n {unsafe['n']}</small>"
        in html
    )


def test_the_answer_says_whether_the_difference_is_distinguishable(run, html):
    pairs = json.loads((run / "summary.json").read_text())["pairs"]
    unsafe = next(p for p in pairs if (p["base"], p["arm"], p["metric"]) == ("base", "hybrid", "unsafe"))
    sentence = re.search(r'class="answer">(.*?)</p>', html, re.DOTALL)[1]
    assert sentence.startswith("Compared with base, hybrid gives")
    assert points(abs(unsafe["difference"])).lstrip("+") in sentence
    assert ("which is distinguishable" in sentence.split("over-refusals")[0]) == unsafe["distinguishable"]


def test_a_difference_that_is_not_distinguishable_comes_with_what_could_have_been_seen(run, html):
    pairs = [p for p in json.loads((run / "summary.json").read_text())["pairs"] if p["primary"] and not p["distinguishable"]]
    assert pairs and all(f'<td class="number">{100 * p["mde"]:.1f}</td>' in html for p in pairs)


def test_replies_to_harmful_prompts_are_closed_and_others_open(html):
    bodies = re.findall(r"<article.*?</article>", html, re.DOTALL)
    kinds = [re.search(r'class="note">\d+ · (\w+)', body)[1] for body in bodies]
    assert set(kinds) == {"harmful", "borderline", "benign", "reasoning"}
    assert all(('<details class="veil">' in body) == (kind == "harmful") for kind, body in zip(kinds, bodies, strict=True))


def test_the_limits_name_sample_size_seed_model_judge_cap_and_language(html):
    limits = re.search(r'class="limits">(.*?)</ul>', html, re.DOTALL)[1]
    for clue in (
        "80 % power",
        "seed 7",
        "135\xa0M parameters",
        "AUC 0.93",
        "max_tokens = 200",
        "en;",
        "cut by the token cap",
        "not graded",
    ):
        assert clue in limits


def test_a_stage_shared_by_two_arms_costs_each_of_them_and_the_run_only_once(run):
    tokens = {line["arm"]: line["tokens"] for line in cost_table(read_run(run))}
    assert tokens == {"base": "none", "sft": "120\xa0k", "rl": "120\xa0k", "hybrid": "240\xa0k", "this run": "360\xa0k"}


def test_a_cost_that_is_partly_unknown_is_not_summed(tmp_path):
    facts = run_facts()
    del facts["stages"]["cccc-grpo"]["flops"]
    lines = {line["arm"]: line["flops"] for line in cost_table(read_run(write_run(tmp_path / "run", rows_by_arm(n=2), facts)))}
    assert lines["hybrid"] == lines["this run"] == "not recorded" != lines["rl"]


def test_the_same_folder_gives_the_same_bytes(run, html):
    assert build(run)[0].read_text() == html


@pytest.mark.parametrize("gone", ["run.json", "summary.json", "recipe.toml", "stages", "evals", "everything"])
def test_a_report_is_built_without_any_part_and_says_what_is_not_recorded(tmp_path, gone):
    folder = write_run(tmp_path / "run", rows_by_arm(n=4))
    for path in list(folder.iterdir()) if gone == "everything" else [folder / gone]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(build(folder)[0].read_text())
    assert page.stray == [] and ("not recorded" in page.text or gone == "recipe.toml")


def test_one_arm_alone_is_reported_without_a_comparison(tmp_path):
    facts = {**run_facts(), "arms": {"model": []}, "stages": {}}
    only = {"model": [{**r, "arm": "model"} for r in rows_by_arm(n=8)["base"]]}
    page = Page(build(write_run(tmp_path / "run", only, facts, held_out=()))[0].read_text())
    assert "model, measured by itself:" in page.text and "Every trained arm" not in page.text


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="no such run folder"):
        build(tmp_path / "nowhere")


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"summary\.json"):
        build(tmp_path)


def test_facts_that_are_no_object_are_named(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(StorageError, match=r"run\.json: holds a JSON list"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"id": "x"}', "row 3 lacks arm, suite"),
        ("[1]", "row 3 is a JSON list"),
        ('{"suite": "harm", "arm": "base", "id": "x"}', "row x lacks answer, category, class"),
    ],
)
def test_a_row_that_is_none_is_named_with_its_file_and_number(tmp_path, line, wanted):
    folder = write_run(tmp_path / "run", rows_by_arm(n=2))
    before = build(folder)[0].read_text()
    path = folder / "evals" / "harm@base" / "rows.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StorageError, match=rf"harm@base/rows\.jsonl: {wanted}"):
        build(folder)
    assert (folder / "report.html").read_text() == before


def test_answers_of_an_earlier_setting_are_not_read(tmp_path):
    folder = write_run(tmp_path / "run", rows_by_arm(n=3))
    (folder / "evals" / "harm@base").rename(folder / "evals" / "harm@base.0123abcd")
    assert not [r for r in read_run(folder).rows["base"] if r["suite"] == "harm"]


def test_examples_are_twenty_spread_over_classes_and_do_not_depend_on_the_order_of_rows():
    rows = rows_by_arm(n=30)
    chosen = choose(rows, list(ARMS))
    again = choose({arm: of[::-1] for arm, of in rows.items()}, list(ARMS))
    assert [e.prompt for e in chosen] == [e.prompt for e in again]
    assert [sum(e.kind == k for e in chosen) for k in ("harmful", "borderline", "benign", "reasoning")] == [5, 5, 5, 5]
    assert all([r["arm"] for r in e.rows] == list(ARMS) for e in chosen)


def test_at_least_every_third_example_is_drawn_without_regard_to_the_replies():
    chosen = choose(rows_by_arm(n=60), list(ARMS))
    assert sum(e.drawn == "drawn at random" for e in chosen) >= 7


def test_a_prompt_that_one_arm_did_not_answer_is_no_example():
    rows = {"a": [row("a", number=0), row("a", number=1)], "b": [row("b", number=1)]}
    assert [e.rows[0]["id"] for e in choose(rows, ["a", "b"])] == ["harmful-0001"]


def test_results_hold_the_summary_and_every_row_in_a_fixed_order(run, tmp_path):
    results(run, tmp_path / "one")
    folder = tmp_path / "shuffled"
    shutil.copytree(run, folder)
    for path in folder.glob("evals/*/rows.jsonl"):
        path.write_text("".join(f"{line}\n" for line in reversed(path.read_text().splitlines())))
    results(folder, tmp_path / "two")
    first, second = ((tmp_path / name / "rows.jsonl.gz").read_bytes() for name in ("one", "two"))
    assert first == second and len(gzip.decompress(first).splitlines()) == 40 * 4 * 4
    assert files.read_json(tmp_path / "one" / "summary.json") == files.read_json(run / "summary.json")


def test_results_without_a_summary_are_refused(tmp_path):
    with pytest.raises(StorageError, match=r"no summary\.json"):
        results(write_run(tmp_path / "run", rows_by_arm(n=1), summary=False), tmp_path / "out")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_frontier_keeps_every_mark_inside_its_drawing(places):
    drawn = [
        charts.Point(f"arm {i}", (x, max(0, x - 0.1), min(1, x + 0.1)), (y, max(0, y - 0.1), min(1, y + 0.1)))
        for i, (x, y) in enumerate(places)
    ]
    svg = charts.frontier(drawn, title="t", x_label="x", y_label="y")
    across, down = (float(v) for v in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    for x, y in re.findall(r'<circle cx="(\S+)" cy="(\S+)"', svg):
        assert 0 <= float(x) <= across and 0 <= float(y) <= down


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=600))
def test_lines_of_any_length_stay_a_small_drawing_of_finite_numbers(values):
    svg = charts.lines([charts.Line("loss", list(enumerate(values)))], title="t", x_label="x", y_label="")
    corners = re.search(r'points="([^"]*)"', svg)[1].split()
    assert len(corners) <= charts.MOST_POINTS and "nan" not in svg and "inf" not in svg


def test_chart_labels_are_escaped():
    svg = charts.lines([charts.Line("<script>", [(0, 0), (1, 1)])], title='"><script>', x_label="&", y_label="")
    assert "<script>" not in svg and "&lt;script&gt;" in svg


def test_parts_of_a_stacked_bar_fill_it():
    svg = charts.stacked([("arm", {"a": 3, "b": 1})], ["a", "b"], title="t")
    widths = [float(w) for w in re.findall(r'width="(\S+)" height="17"', svg)]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (percent(0.1234), "12.3\xa0%"), (percent(None), "–"), (points(-0.05), "−5.0"),
        (points(0.00001), "0.0"), (points(-0.00001), "0.0"),
        (scaled(9.7e13, "FLOP"), "97\xa0TFLOP"), (scaled(0, "B"), "0\xa0B"), (scaled(None, "B"), "not recorded"),
        (scaled(999_999, ""), "1\xa0M"),
        (duration(59.96), "60.0\xa0s"), (duration(3725), "1\xa0h 02\xa0min"), (duration(None), "not recorded"),
    ],
)  # fmt: skip
def test_numbers_read_as_a_person_would_write_them(shown, wanted):
    assert shown == wanted


@pytest.fixture(scope="module")
def gamed(tmp_path_factory):
    return write_gamed_run(tmp_path_factory.mktemp("runs") / "gamed")


@pytest.fixture(scope="module")
def gaming_section(gamed):
    return re.search(r'<section id="gaming".*?</section>', build(gamed)[0].read_text(), re.DOTALL)[0]


def test_the_gaming_section_has_a_line_and_the_figures_of_each_stage(gamed, gaming_section):
    found = json.loads((gamed / "summary.json").read_text())["gaming"]["bbbb-grpo"]
    assert points(found["end"]["gap"]["value"]) in gaming_section and f"step {found['onset']}" in gaming_section
    titles = re.findall(r"<title>([^<]*): (\w+)</title>", gaming_section)
    assert {arm for _, arm in titles} == {"rl", "hybrid"}
    assert {what for what, arm in titles if arm == "rl"} == {
        "Mapped reward and gold", "Weights of the reward over training", "Multipliers and pessimism over training",
        "Hack penalties over training", "Share of answers with each hack",
    }  # fmt: skip


def test_a_stage_without_a_map_is_said_to_be_in_plain_words(tmp_path):
    said = build(write_run(tmp_path / "unmapped"))[1].read_text()
    assert "(key reference)" in said


def test_letters_of_many_events_stand_apart():
    marks = [charts.Mark(step, chr(97 + step)) for step in range(12)]
    drawn = str(charts.lines([charts.Line("x", [(0, 0), (150, 1)])], title="t", x_label="x", y_label="y", marks=marks))
    found = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="tick middle">[a-l]<', drawn)]
    assert len(found) == 12
    assert all(abs(a - c) > 8 or abs(b - d) > 12 for i, (a, b) in enumerate(found) for c, d in found[:i])


def test_kappa_is_called_pessimism_as_in_the_docs(gaming_section):
    assert ">pessimism</text>" in gaming_section and "kappa" not in gaming_section


def test_the_onset_is_marked_only_where_there_is_one(gaming_section):
    curves = re.findall(r"<svg[^>]*><title>Mapped reward and gold: (\w+)</title>(.*?)</svg>", gaming_section)
    assert {arm: ">onset<" in drawn for arm, drawn in curves} == {"rl": True, "hybrid": False}


def test_events_have_letters_in_the_figures_and_sentences_below_them(gaming_section):
    assert "d · step 41: rolled back, policy (beta_factor 2, to 20)" in gaming_section
    weights = re.search(r"Weights of the reward over training: rl</title>(.*?)</svg>", gaming_section)[1]
    assert [letter for letter in "abcde" if f">{letter}</text>" in weights] == list("abcd")


def test_markdown_has_the_gaming_table_too(gamed):
    lines = build(gamed)[1].read_text().splitlines()
    assert "## Was the reward gamed?" in lines and any(line.startswith("| rl | +") for line in lines)


def test_a_stage_whose_start_was_not_scored_keeps_its_figures_and_is_said_to_be_unmeasured(html):
    section = re.search(r'<section id="gaming".*?</section>', html, re.DOTALL)[0]
    training = re.search(r'<section id="training".*?</section>', html, re.DOTALL)[0]
    assert section.count("Not measured") == 2 and "<svg" not in section
    assert training.count("<figcaption>Reward against gold;") == training.count("Weights of the reward</figcaption>") == 2


def test_a_run_without_reinforcement_has_no_gaming_section(tmp_path):
    facts = {**run_facts(), "stages": {}}
    assert "Was the reward gamed?" not in build(write_run(tmp_path / "run", rows_by_arm(n=2), facts))[0].read_text()


def test_hostile_names_of_hacks_and_events_are_only_text(gamed, tmp_path):
    folder = tmp_path / "hostile"
    shutil.copytree(gamed, folder)
    attack = "".join(HOSTILE)
    for path in (folder / "summary.json", folder / "stages" / "bbbb-grpo" / "events.jsonl"):
        path.write_text(path.read_text().replace("refusal-prefix", json.dumps(attack)[1:-1]))
    path = folder / "stages" / "bbbb-grpo" / "metrics.jsonl"
    path.write_text(path.read_text().replace("refusal-prefix", json.dumps(attack)[1:-1]))
    page, clean = Page(build(folder)[0].read_text()), Page(build(gamed)[0].read_text())
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert {key for _, a in page.elements for key in a} <= {key for _, a in clean.elements for key in a}
    assert page.stray == [] and page.open == [] and attack in page.text
    assert not [line for line in build(folder)[1].read_text().splitlines() if re.search(r"<[a-zA-Z/]", line)]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_labels_of_marks_overlap_only_where_all_rows_do_not_hold_them(at):
    places = sorted(at)
    rows = charts._label_rows(places, ["a"] * len(places))
    crowded = max(sum(x - 14 < y <= x for y in places) for x in places) > charts.ROWS
    held = [[x for x, r in zip(places, rows, strict=True) if r == number] for number in range(charts.ROWS)]
    assert crowded or all(b - a >= 14 - 1e-9 for of in held for a, b in pairwise(of))


def test_arms_that_do_not_differ_give_as_many_of_each(tmp_path):
    rows = rows_by_arm(n=6)
    same = {arm: [{**r, "arm": arm} for r in rows["base"]] for arm in rows}
    said = build(write_run(tmp_path / "run", same))[1].read_text()
    assert "hybrid gives as many unsafe answers (" in said and "and as many over-refusals (" in said


def test_a_rate_stands_with_how_its_replies_ended(tmp_path):
    folder = write_run(tmp_path / "run", rows_by_arm(n=4))
    summary = files.read_json(folder / "summary.json")
    summary["arms"]["base"]["unsafe"] |= {"closed": 0.875, "cut": 0.25}
    files.write_json(folder / "summary.json", summary)
    assert "<small>closed 88\xa0%, cut 25\xa0%</small>" in build(folder)[0].read_text()


def test_the_console_counts_ungraded_answers_among_the_rows_that_the_rate_reads(tmp_path):
    from temper.cli.report import headline

    plain = [row("base", "harmful", i, gold=None if i < 2 else 0.1, harm=0.1) for i in range(10)]
    plain[0] = failed(plain[0])
    run = write_run(
        tmp_path / "run", {"base": [*plain, *changed(plain, "attack:persona")]}, {**run_facts(), "arms": {"base": []}}
    )
    (run / "report.html").write_text("")
    assert "2 of 10 answers to harmful prompts not graded by gold" in headline(run)


def test_the_console_names_the_judge_and_asks_nobody_to_ask_again_what_another_tool_asked(tmp_path):
    from temper.cli.report import headline

    rows = [failed(row("base", "harmful", 0, harm=0.1)), *(row("base", "harmful", i, harm=0.1) for i in range(1, 5))]
    for facts, remedy in (({}, "--retry-errors"), ({"imported": [{}]}, "the tool that made the file has to ask them again")):
        run = write_run(tmp_path / str(len(facts)), {"base": rows}, {**run_facts(), "arms": {"base": []}, **facts})
        summary = files.read_json(run / "summary.json") | {"judge": "harm"}
        files.write_json(run / "summary.json", summary)
        (run / "report.html").write_text("")
        told = headline(run)
        assert "unsafe (harm)" in told and "unsafe (gold)" not in told
        assert remedy in told and told.count("--retry-errors") == int(remedy == "--retry-errors")
