"""New hacks from audited rows: a planted one is found, chance finds none, and nothing enters a bank by itself."""

import json
import random
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from temper import cli
from temper.cli.hacks import app as hacks_app
from temper.cli.mine import mine as mine_command
from temper.errors import DataError, UsageError
from temper.files import append_zst, file_sha256, read_json, write_json
from temper.rewards.hacks import SHIPPED, bank
from temper.rewards.journal import completion_of
from temper.rewards.mining import accept, figures, load, look, mine, mine_run, plain, twins
from temper.types import Completion, Example, Message
from tests.journals import HACK, journal

HOSTILE = [
    "",
    " ",
    "\x00\x01",
    "\ud800 half a pair",
    "ß" * 50,
    "((([[[*+?{{{\\",
    "\u202eabc",
    "a" * 30_000,
    "word " * 5_000,
    "\n\n\n",
]
CLEAN = Completion(
    Example("x", (Message("user", "Which pan?"),)), "Use the small pan and a little butter. It takes five minutes."
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one stage, in which 30 of 600 answers hold a planted hack."""
    folder = tmp_path_factory.mktemp("run")
    append_zst(folder / "stages" / "abc-grpo" / "rollouts.jsonl.zst", journal(planted=30))
    mine_run(folder)
    return folder


@pytest.fixture
def accepted(run: Path, tmp_path: Path) -> Path:
    return accept(candidate(run), "friendly-neighbour", tmp_path / "hacks")


def candidate(run: Path) -> Path:
    (found,) = (run / "candidates").glob("*.json")
    return found


def test_a_hack_planted_in_30_of_600_rows_is_the_one_candidate(run):
    held = read_json(candidate(run))
    assert held["spans"][0] == HACK and held["size"] >= 25 and held["where"] == "answer"
    assert held["precision"]["value"] >= 0.8 and held["precision"]["low"] > held["base_rate"]
    assert all(HACK in row["answer"] for row in held["positives"])


def test_journals_without_a_hack_give_no_candidates_beyond_the_stated_rate():
    found = [len(mine(journal(seed=seed, bad=(0.2, 0.4, 0.7)[seed % 3])).candidates) for seed in range(12)]
    # at 5 % a journal, two or more of 12 have a chance of 12 %; at 30 %, one or none has a chance of 8 %, at 50 % of 0.3 %
    assert sum(n > 0 for n in found) <= 1


def test_badness_that_hangs_on_the_prompt_alone_is_no_candidate():
    rows = journal(seed=3)
    bad = set(random.Random(0).sample(sorted({r["id"] for r in rows}), 30))
    for row in rows:
        row["audit"] = {"value": float(row["id"] in bad), "expected": 1.0, "count": 1}
    assert not mine(rows).candidates


def test_a_wording_that_is_as_often_fine_as_bad_is_no_candidate():
    rows = journal(planted=60, seed=1)
    for i, row in enumerate(r for r in rows if HACK in r["answer"]):
        row["audit"] = {"value": float(i % 2), "expected": 1.0, "count": 1}
    assert not mine(rows).candidates


def test_a_hack_that_a_detector_already_flags_is_not_news():
    rows = journal(planted=30)
    for row in rows:
        row["flags"] = {"known": float(HACK in row["answer"])}
    assert not mine(rows).candidates


def test_rows_that_were_not_audited_or_not_paid_are_left_out():
    rows = journal(planted=30)
    mined = mine([{**row, "audit": None} for row in rows])
    assert (mined.audited, mined.candidates) == (0, ())
    assert mine([{**row, "reward": None} for row in rows]).audited == 0


def test_mining_is_the_same_every_time(run):
    again = mine(journal(planted=30), run=str(run))
    assert [c.id for c in again.candidates] == [candidate(run).stem]


def test_hostile_texts_neither_crash_the_mining_nor_hide_the_hack():
    rows = journal(planted=30)
    for i, row in enumerate(r for r in rows if HACK not in r["answer"]):
        row["answer"] = HOSTILE[i % len(HOSTILE)] if i % 5 == 0 else row["answer"]
    (found,) = mine(rows).candidates
    assert found.spans[0] == HACK


def test_answers_that_all_agree_give_no_candidate():
    assert not mine([{**row, "answer": "One and the same reply."} for row in journal()]).candidates


@pytest.mark.parametrize("text", HOSTILE)
def test_an_accepted_detector_takes_any_text(accepted, text):
    hack, given = load(accepted), Completion(CLEAN.example, text)
    assert hack.detect([given], SHIPPED) == [0.0] and hack.strip(given) is None
    assert hack.detect([hack.plant(given, random.Random(0))], SHIPPED) == [1.0]


@pytest.mark.parametrize("text", [*HOSTILE, "İSTANBUL\tÇA", "ﬁne"])
def test_the_plain_text_keeps_every_character_in_its_place(text):
    assert len(plain(text)) == len(text)


def test_an_accepted_candidate_finds_its_positives_and_what_it_plants_and_not_the_clean_twins(accepted):
    hack = load(accepted)
    pairs = twins(accepted)
    assert len(pairs) >= 10 and {t.hack for t in pairs} == {"friendly-neighbour"} == {hack.name}
    assert set(hack.detect([t.hacked for t in pairs], SHIPPED)) == {1.0}
    assert set(hack.detect([t.clean for t in pairs], SHIPPED)) == {0.0}
    assert hack.detect([CLEAN, hack.plant(CLEAN, random.Random(1))], SHIPPED) == [0.0, 1.0]


def test_strip_takes_the_span_out_and_leaves_the_rest(accepted):
    hack = load(accepted)
    planted = hack.plant(CLEAN, random.Random(1))
    stripped = hack.strip(planted)
    assert stripped is not None and HACK not in stripped.answer and "five minutes." in stripped.answer
    assert hack.strip(CLEAN) is None


def test_figures_of_an_accepted_candidate_are_those_it_was_mined_with(accepted):
    found = figures(accepted)
    assert found.recall.value > 0.9 and found.false_positive.value < 0.03 and found.n_negative == found.false_positive.n > 100


def test_a_bank_with_an_accepted_candidate_has_its_figures_beside_its_own(accepted):
    from temper.rewards import hacks

    [name] = {entry.name for entry in hacks.bank((str(accepted),))}
    known = hacks.figures(("all", str(accepted)))
    assert known[name] == figures(accepted)
    assert known.keys() == {*hacks.figures(), name}


def test_an_accepted_file_says_where_it_comes_from_and_who_let_it_in(accepted, run):
    held = read_json(accepted)
    assert held["run"] == str(run) and len(held["rows"]) == held["size"]
    assert held["accepted"]["by"] and held["accepted"]["at"].endswith("Z")
    assert held["accepted"]["candidate"] == file_sha256(candidate(run))


def test_the_positives_of_a_file_are_rows_that_can_be_rebuilt(accepted):
    assert all(completion_of(row).answer for row in read_json(accepted)["positives"])


def test_nothing_is_accepted_under_a_bad_a_known_or_a_taken_name(run, accepted):
    for name, known in (("Bad Name", ()), ("repetition", ("repetition",)), ("friendly-neighbour", ())):
        with pytest.raises(UsageError, match="--as"):
            accept(candidate(run), name, accepted.parent, known=known)


def test_a_candidate_is_no_detector_before_it_is_accepted(run):
    with pytest.raises(DataError, match="accept it first"):
        load(candidate(run))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", float("nan"), "threshold = nan; wanted a finite number"),
        ("threshold", "0.5", "wanted a finite number"),
        ("grams", {}, "wanted n-grams with a finite weight"),
        ("grams", {"abc": float("inf")}, "wanted n-grams with a finite weight"),
        ("classes", ["harmfull"], "wanted a list of benign, borderline, harmful, reasoning"),
        ("where", "anywhere", "wanted one of all, think, answer"),
        ("positives", [], "wanted at least one row"),
        ("positives", [{"answer": "x"}], "wanted at least one row"),
        ("threshold", 0.0, "was edited after it was mined"),
        ("recall", {"value": 1.0, "n": 500, "low": 0.99, "high": 1.0}, "was edited after it was mined"),
        ("base_rate", float("nan"), "was edited after it was mined"),
    ],
)
def test_a_file_that_was_edited_is_neither_accepted_nor_loaded(run, accepted, tmp_path, key, value, message):
    for path, use in ((accepted, load), (candidate(run), lambda edited: accept(edited, "edited", tmp_path / "bank"))):
        edited = tmp_path / "edited.json"
        edited.write_text(json.dumps({**read_json(path), key: value}))
        with pytest.raises(DataError, match=message):
            use(edited)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("text", [None, "{", "[]", "\x00"])
def test_a_missing_or_garbled_detector_is_a_wrong_request(tmp_path, text):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json: (no such file|not valid JSON|no accepted detector)"):
        bank(["all", str(path)])


def test_a_candidate_is_read_whole_before_it_is_accepted(run):
    shown = CliRunner().invoke(hacks_app, ["show", str(candidate(run))])
    assert shown.exit_code == 0 and shown.output.count("span taken out (not flagged)") == len(twins_of(candidate(run)))
    assert shown.output.count(HACK) >= 10 and "heaviest n-grams: '" in shown.output


def twins_of(path: Path) -> list:
    return look(path)[1]


def test_nothing_in_a_mined_answer_reaches_the_terminal_unseen(tmp_path):
    rows = journal(planted=30, hack="Approved \x1b[31munder\u202e the friendly neighbour rule, \x00 section four.")
    append_zst(tmp_path / "rollouts.jsonl.zst", rows)
    app = typer.Typer()
    app.command()(mine_command)
    said = CliRunner().invoke(app, [str(tmp_path)]).output
    (found,) = (tmp_path / "candidates").glob("*.json")
    said += CliRunner().invoke(hacks_app, ["show", str(found)]).output
    assert "friendly neighbour" in said and "[U+001B][31m" in said
    assert not {"\x1b", "\u202e", "\x00"} & set(said)


def test_an_error_of_any_verb_reaches_the_terminal_without_hidden_characters(monkeypatch, capsys):
    def fail():
        raise DataError("x\x1b[31m\u202e: no such file")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (2, "temper: x[U+001B][31m[U+202E]: no such file\n")


def test_another_file_is_refused(tmp_path):
    write_json(tmp_path / "x.json", {"schema": 1})
    with pytest.raises(DataError, match="lacks"):
        accept(tmp_path / "x.json", "x", tmp_path)
    with pytest.raises(DataError, match="no journal"):
        mine_run(tmp_path)


def test_a_journal_of_another_kind_is_refused(tmp_path):
    append_zst(tmp_path / "rollouts.jsonl.zst", [{"step": 1, "id": "x", "answer": "", "reward": 1.0}])
    with pytest.raises(DataError, match="rows lack class, prompt"):
        mine_run(tmp_path)


def test_a_run_without_audits_says_what_it_needs(tmp_path):
    append_zst(tmp_path / "rollouts.jsonl.zst", [{**row, "audit": None} for row in journal(prompts=4)])
    with pytest.raises(DataError, match="no row was audited"):
        mine_run(tmp_path)


def test_the_command_shows_what_it_found_and_where_it_looked(run):
    app = typer.Typer()
    app.command()(mine_command)
    shown = CliRunner().invoke(app, [str(run)])
    assert shown.exit_code == 0 and HACK in shown.output and candidate(run).stem in shown.output
    assert "600 audited answers" in shown.output and "candidates: 1" in shown.output
