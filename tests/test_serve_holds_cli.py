"""`temper holds`: the queue in a terminal shows all that a verdict decides on, and lets nobody decide who may not."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from serve_parts import opened as with_tables
from typer.testing import CliRunner

from temper.cli.holds import app
from temper.cli.keys import opened
from temper.errors import UsageError
from temper.serve.people import People
from temper.serve.policy import Review
from temper.serve.review import Holds
from temper.serve.vault import Vault
from temper.serve.verdict import Turn
from temper.serve.webhooks import Hooks
from temper.types import Example

PASSWORD = "correct horse battery"
REQUEST = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "how do I pay?"}]}]}
ANSWER = {
    "reasoning": "they want money",
    "content": "like \u202ethis",
    "calls": [{"name": "pay", "call_id": "1", "arguments": '{"sum": 7}'}],
}
FINDING = {"filter": "rules", "rule": "r1", "category": "money", "channel": "content", "start": 0, "end": 4, "why": "a sum"}
PATHS = "sqlite:///temper.db", Path("temper.secret"), Path("checkpoints")


class Queue:
    """A gateway's database in the working folder, with two reviewers."""

    def __init__(self) -> None:
        with opened(*PATHS, make=True) as (store, keyring, journal):
            people = People(store, keyring, journal)
            self.people = {n: people.add(n, PASSWORD, "reviewer", by="test") for n in ("ann", "ben")}

    def do(self, work: Any) -> Any:
        with opened(*PATHS) as (store, keyring, journal):
            return asyncio.run(work(Holds(store, Vault(store, keyring), journal, Hooks(store, keyring, journal))))

    def item(self, **changes: Any) -> str:
        given: dict[str, Any] = {"kind": "output", "category": "money", "findings": [FINDING], "request": REQUEST}
        given |= {"answers": [ANSWER], "review": Review(two_person=("weapons",)), **changes}
        return str(self.do(lambda holds: holds.hold(Turn("resp_1", Example("e", ()), key="key_1"), **given)))

    def state(self, id: str) -> str:
        return str(self.do(lambda holds: holds.outcome(id)).state)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    # the strength is argon2's own affair, and costs seconds
    monkeypatch.setattr("temper.serve.people.PasswordHasher", partial(PasswordHasher, time_cost=1, memory_cost=32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPER_SECRET", raising=False)
    with_tables(PATHS[0]).close()
    return Queue()


def run(*args: str, password: str = PASSWORD) -> Any:
    return CliRunner().invoke(app, list(args), input=f"{password}\n")


def test_items_are_listed_without_their_texts(queue: Queue) -> None:
    one, two = queue.item(), queue.item(category="weapons")
    told = run("list").output
    assert told == f"{one}  waiting   output   money\n{two}  waiting   output   weapons  two people\n"
    assert run("list", "--state", "released").output == ""
    assert one in run("list", "--state", "").output
    wrong = run("list", "--state", "relesed")
    assert isinstance(wrong.exception, UsageError) and "released" in str(wrong.exception)


def test_an_item_is_shown_whole_to_who_has_a_password(queue: Queue) -> None:
    id = queue.item(findings=[FINDING, FINDING])
    told = run("show", id, "--as", "ann").output
    assert told.count("rules: r1") == 1, "a rule that fired at two places is told once"
    for part in ("rules: r1 on content: a sum", "user: how do I pay?", "reasoning: they want money", 'call: pay({"sum": 7})'):
        assert part in told, part
    assert "\u202e" not in told and "answer: like" in told, "what reorders text is spelled out"
    wrong = run("show", id, "--as", "ann", password="guess")
    assert isinstance(wrong.exception, UsageError) and "money" not in wrong.output
    assert isinstance(run("show", id, "--as", "nobody").exception, UsageError)
    assert isinstance(run("show", "hold_none", "--as", "ann").exception, UsageError)


@pytest.mark.parametrize(("verdict", "state"), [("release", "released"), ("refuse", "refused")])
def test_a_verdict_is_given_once_and_shows_the_item_first(queue: Queue, verdict: str, state: str) -> None:
    id = queue.item()
    told = run("decide", id, verdict, "--as", "ann", "--note", "fine", "--message", "no")
    assert told.exit_code == 0 and told.output.endswith(f"{id} is {state}\n") and "how do I pay?" in told.output
    assert queue.state(id) == state
    again = run("decide", id, "refuse", "--as", "ben")
    assert isinstance(again.exception, UsageError) and state in str(again.exception)


def test_nobody_decides_with_a_wrong_password_verdict_or_lease(queue: Queue) -> None:
    id = queue.item()
    assert isinstance(run("decide", id, "release", "--as", "ann", password="guess").exception, UsageError)
    assert isinstance(run("decide", id, "edit", "--as", "ann").exception, UsageError)
    assert queue.do(lambda holds: holds.claim(id, queue.people["ben"], 60))
    taken = run("decide", id, "release", "--as", "ann")
    assert isinstance(taken.exception, UsageError) and "somebody else has it" in str(taken.exception)
    assert queue.state(id) == "waiting"


def test_two_people_agree_to_what_both_were_shown(queue: Queue) -> None:
    id = queue.item(category="weapons")
    edited = {"edit": ["a safer text"], "note": "shorter"}
    assert queue.do(lambda holds: holds.decide(id, queue.people["ben"], "edit", **edited)) == "waiting"
    told = run("decide", id, "release", "--as", "ann").output
    assert "ben: edit" in told and "a safer text" in told and "shorter" in told and told.endswith(f"{id} is edited\n")
    id = queue.item(category="weapons")
    assert run("decide", id, "release", "--as", "ann").output.endswith(f"{id} is waiting; another person has to agree\n")
    assert queue.state(id) == "waiting"


def test_a_misspelt_path_makes_no_empty_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPER_SECRET", raising=False)
    assert isinstance(run("list").exception, UsageError)
    Path("temper.secret").write_text("A" * 43 + "=\n")
    Path("temper.secret").chmod(0o600)
    assert isinstance(run("list").exception, UsageError)
    assert [p.name for p in tmp_path.iterdir()] == ["temper.secret"]
