"""Every reply inside the page: packed whole, inert, in one file or a folder, and shown by a real browser where there is one."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from synthetic import rows_by_arm, varied_rows, write_run

from temper.report import build, built, explorer
from temper.report.explorer import packed, unpacked
from temper.report.page import page
from temper.report.read import read_run

ATTACK = "<img src=x onerror=\"document.title='broken'\"></script><script>document.title='broken'</script>\u202egpj.exe\u2066\x00"
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "varied", varied_rows(n=12))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run in which every text of every row is an attack."""
    rows = {
        arm: [{**r, **dict.fromkeys(("prompt", "answer", "reasoning"), ATTACK)} for r in of] for arm, of in rows_by_arm(6).items()
    }
    for of in rows.values():
        for r in of:
            r |= {"category": ATTACK, "facts": {ATTACK: ATTACK}, "how": [ATTACK], "of": "x"}
            r["scores"] = {**r["scores"], ATTACK: {"value": 0.5, "why": ATTACK, "parts": {}}}
    return write_run(tmp_path_factory.mktemp("runs") / "hostile", rows, summary=False)


def prompts(run):
    return [prompt for chunk in packed(run) for prompt in unpacked(chunk)["prompts"]]


def test_every_row_of_every_arm_is_in_the_page_with_all_of_its_text(varied):
    run = read_run(varied)
    found = {
        (p["suite"], p["id"], p["sample"], arm): (p, r)
        for p in prompts(run)
        for arm, r in zip(run.arms, p["replies"], strict=True)
    }
    rows = [row for of in run.rows.values() for row in of]
    assert len(found) == len(rows)
    for row in rows:
        prompt, reply = found[row["suite"], row["id"], row["sample"], row["arm"]]
        assert prompt["prompt"] == row["prompt"] and prompt.get("how", []) == row.get("how", [])
        assert (reply["answer"], reply.get("reasoning", ""), reply["outcome"]) == (
            row["answer"],
            row["reasoning"],
            row["outcome"],
        )
        assert reply.get("error", "") == row.get("error", "") and reply.get("facts", {}) == row.get("facts", {})


def test_a_prompt_that_some_arms_were_not_asked_has_no_reply_of_theirs(tmp_path):
    rows = rows_by_arm(n=3)
    rows["rl"] = rows["rl"][:2]
    found = prompts(read_run(write_run(tmp_path / "run", rows)))
    missing = [p for p in found if p["replies"][list(rows).index("rl")] is None]
    assert len(found) == 12 and len(missing) == 10


def test_no_hidden_character_is_left_in_what_the_page_unpacks(hostile):
    for chunk in packed(read_run(hostile)):
        raw = json.dumps(unpacked(chunk), ensure_ascii=False)
        assert not re.search("[\u202a-\u202e\u2066-\u2069]|\\\\u0000", raw) and "[U+202E]gpj.exe[U+2066][U+0000]" in raw


def test_packed_rows_are_letters_that_no_markup_can_be_made_of(hostile):
    run = read_run(hostile)
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]+", chunk) for chunk in packed(run))
    assert page(run, packed(run)).count("</script>") == 1 + len(packed(run))


def test_chunks_end_where_their_text_is_long_enough_and_each_names_the_arms(varied, monkeypatch):
    run = read_run(varied)
    whole = prompts(run)
    monkeypatch.setattr(explorer, "CHARACTERS", 5_000)
    found = [unpacked(chunk) for chunk in packed(run)]
    assert len(found) > 10 and all(of["arms"] == run.arms and of["gold"] == "gold" for of in found)
    assert [p for of in found for p in of["prompts"]] == whole


def test_a_run_too_large_for_one_page_becomes_a_folder_that_holds_the_same_rows(varied):
    inside = packed(read_run(varied))
    index, _ = build(varied, most=1000)
    assert index == built(varied) == varied / "report" / "index.html" and not (varied / "report.html").exists()
    beside = [
        re.fullmatch(r'temperRows\((\d+), "(.*)"\);\n', (index.parent / f"rows-{i}.js").read_text()) for i in range(len(inside))
    ]
    assert [(int(found[1]), found[2]) for found in beside] == list(enumerate(inside))
    assert inside[0] not in index.read_text() and f'data-files="{len(inside)}"' in index.read_text()
    assert build(varied)[0] == built(varied) == varied / "report.html" and not (varied / "report").exists()


def test_only_a_page_with_rows_beside_it_may_load_scripts_of_its_folder(varied):
    def policy(path):
        return re.search(r'Content-Security-Policy" content="([^"]*)"', path.read_text())[1]

    folder, alone = policy(build(varied, most=1000)[0]), policy(build(varied)[0])
    assert "self" in folder and "self" not in alone and "unsafe" not in folder + alone
    assert all(p.startswith("default-src &#39;none&#39;") and "connect-src" not in p for p in (folder, alone))


def test_the_script_of_the_page_never_reads_text_as_markup():
    script = page.__globals__["_asset"]("page.js")
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc", "fetch("):
        assert sink not in script.replace("no innerHTML anywhere", "")


class Seen(HTMLParser):
    """What a browser shows of the explorer: the elements of the page, and the text of the chosen prompt."""

    def __init__(self, dom):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.words = [], [], []
        self.feed(dom)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def shown(path, query, tmp_path):
    """The page as a browser has it after its script has run."""
    asked = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = f"file://{path}#rows?{query}"
    done = subprocess.run(
        [*asked, "--virtual-time-budget=8000", "--dump-dom", address], capture_output=True, text=True, check=True, timeout=240
    )
    return done.stdout


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@needs_browser
@pytest.mark.parametrize("most", [20_000_000, 1000], ids=["one page", "folder"])
def test_a_browser_unpacks_filters_and_shows_the_prompt_that_the_address_names(varied, tmp_path, most):
    dom = shown(build(varied, most=most)[0], "class=harmful&how=attack%3Apersona&row=harm%2Bpersona/harmful-0003/0", tmp_path)
    assert re.search(r'id="shown"[^>]*>12 of 72 prompts\.<', dom)
    detail = re.search(r'id="detail".*?</section>', dom, re.DOTALL)[0]
    assert "Synthetic harmful prompt number 3, written by a test." in detail and "persona: Synthetic harmful" in detail
    assert [f"<h4>{arm}</h4>" in detail for arm in ("base", "sft", "rl", "hybrid")] == [True] * 4
    assert dom.count('role="option"') <= 12 and '<details class="veil">' in detail


@needs_browser
def test_a_score_and_an_outcome_of_one_arm_select_its_prompts_alone(varied, tmp_path):
    rows = [r for r in read_run(varied).rows["sft"] if r["outcome"] == "answered" and (r["scores"]["gold"]["value"] or 0) >= 0.5]
    dom = shown(build(varied)[0], "grader=gold&low=0.5&outcome=answered&arm=sft", tmp_path)
    assert rows and f">{len(rows)} of 72 prompts.<" in dom


@needs_browser
def test_a_browser_shows_hostile_replies_as_text_alone(hostile, tmp_path):
    dom = shown(build(hostile)[0], "text=onerror", tmp_path)
    seen = Seen(dom)
    text = " ".join(seen.words)
    assert "24 of 24 prompts." in text and "<img src=x onerror=" in text
    assert not [tag for tag, attrs in seen.tags if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert "broken" not in re.search(r"<title>(.*?)</title>", dom)[1]
    assert [tag for tag, a in seen.tags if tag == "script" and a.get("type") != "text/plain"] == ["script"]


@needs_browser
def test_a_search_that_is_a_pattern_elsewhere_is_only_words_here(varied, tmp_path):
    dom = shown(build(varied)[0], "text=.*(%5B", tmp_path)
    assert re.search(r'id="shown"[^>]*>0 of 72 prompts\.<', dom) and "No prompt fits these filters." in dom


def test_the_size_of_a_page_is_what_its_rows_take_packed(varied):
    size = sum(len(chunk) for chunk in packed(read_run(varied)))
    assert build(varied, most=size)[0].name == "report.html" and build(varied, most=size - 1)[0].name == "index.html"
    assert len(base64.b64decode(packed(read_run(varied))[0])) < size
