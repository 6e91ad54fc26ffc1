"""Who gets in: passwords, guesses, sessions, and the two dependencies that routes ask."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner

from temper.cli import audit as audit_cli
from temper.cli import keys as keys_cli
from temper.cli import people as people_cli
from temper.errors import UnknownName, UsageError
from temper.serve import access
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.keys import Keys
from temper.serve.people import People, Person, Throttled
from temper.serve.protocol import ApiError
from temper.serve.state import Settings
from temper.serve.store import Store
from temper.serve.tables import journal as lines
from temper.serve.tables import people as table
from temper.serve.verdict import Caller

pytest_plugins = ("serve_parts",)
PASSWORD = "correct horse battery"


@pytest.fixture
def people(store: Store, keyring: Keyring, journal: Journal) -> People:
    made = People(store, keyring, journal)
    from argon2 import PasswordHasher

    made._hasher = PasswordHasher(time_cost=1, memory_cost=32)  # the strength is argon2's own affair
    return made


def _shift(monkeypatch: pytest.MonkeyPatch, clock: str, seconds: float) -> None:
    real: Callable[[], float] = getattr(time, clock)
    monkeypatch.setattr(time, clock, lambda: real() + seconds)


def test_a_person_gets_in_by_password_alone(people: People, store: Store, journal: Journal) -> None:
    ann = people.add("ann", PASSWORD, "admin", by="me")
    assert people.check("ann", PASSWORD) == ann
    assert people.check("ann", PASSWORD + "x") is None
    assert people.check("bob", PASSWORD) is None
    kept = store.now(lambda c: c.execute(select(table.c.argon2)).scalar())
    assert kept.startswith("$argon2id$")
    journal.flush()
    told = store.now(lambda c: c.execute(select(lines.c.kind, lines.c.body)).all())
    kinds = [k.removeprefix("person.") for k, _ in told if k.startswith("person.")]
    assert kinds == ["added", "signed_in", "refused", "refused"]
    assert all(PASSWORD not in b and "bob" not in b for _, b in told)


def test_guesses_are_slowed_down_by_name_and_by_address(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    people.add("ann", PASSWORD, "reviewer", by="me")
    for i in range(3):
        assert people.check("ann", "wrong", f"198.51.100.{i}") is None
    with pytest.raises(Throttled) as first:
        people.check("ann", PASSWORD, "198.51.100.9")
    assert 0 < first.value.retry_after_s <= 1
    assert people.check("bob", "wrong", "198.51.100.9") is None
    _shift(monkeypatch, "monotonic", 1.1)
    assert people.check("ann", "wrong", "198.51.100.10") is None
    with pytest.raises(Throttled) as second:
        people.check("ann", PASSWORD, "198.51.100.11")
    assert 1 < second.value.retry_after_s <= 2
    _shift(monkeypatch, "monotonic", 2.1)
    assert people.check("ann", PASSWORD, "198.51.100.12") is not None
    assert people.check("ann", PASSWORD, "198.51.100.12") is not None
    for i in range(3):
        assert people.check(f"name{i}", "wrong", "203.0.113.1") is None
    with pytest.raises(Throttled):
        people.check("ann", PASSWORD, "203.0.113.1")


def test_a_session_ends_by_time_sign_out_password_and_disabling(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = people.add("ann", PASSWORD, "reviewer", by="me")
    cookie = people.cookie(ann)
    found = people.session(cookie)
    assert found is not None
    assert (found.person, found.cookie) == (ann, "")
    for end in (
        lambda: people.sign_out(ann),
        lambda: people.password("ann", PASSWORD + "2", by="me"),
        lambda: people.disable("ann", by="me"),
    ):
        cookie = people.cookie(ann)
        assert people.session(cookie) is not None
        end()
        assert people.session(cookie) is None
    assert people.check("ann", PASSWORD + "2") is None
    bob = people.add("bob", PASSWORD, "reviewer", by="me")
    cookie = people.cookie(bob)
    with monkeypatch.context() as later:
        _shift(later, "time", 3700)
        assert people.session(cookie) is None
    for _ in range(12):
        _shift(monkeypatch, "time", 3500)
        found = people.session(cookie)
        if found is None:
            break
        cookie = found.cookie
        assert cookie
    else:
        _shift(monkeypatch, "time", 3500)
        assert people.session(cookie) is None


@pytest.mark.parametrize("spoil", [lambda c: c[:-2], lambda c: "A" + c[1:], lambda c: "", lambda c: c.replace(".", "")])
def test_a_cookie_that_was_changed_is_nobodys(people: People, spoil: Callable[[str], str]) -> None:
    cookie = people.cookie(people.add("ann", PASSWORD, "reviewer", by="me"))
    assert people.session(spoil(cookie)) is None


def test_people_that_make_no_sense_are_refused(people: People) -> None:
    people.add("ann", PASSWORD, "reviewer", by="me")
    for name, password, role in (
        ("ann", PASSWORD, "admin"),
        ("b", PASSWORD, "boss"),
        ("b", "short", "admin"),
        ("", PASSWORD, "admin"),
    ):
        with pytest.raises(UsageError):
            people.add(name, password, role, by="me")
    with pytest.raises(UnknownName, match="did you mean 'ann'"):
        people.disable("anm", by="me")
    assert [r["name"] for r in people.all()] == ["ann"]


@dataclass
class Parts:
    """As much of a gateway as access needs."""

    settings: Settings
    keys: Keys
    people: People
    extra: dict[str, Any] = field(default_factory=dict)


def _app(parts: Any) -> FastAPI:
    app = FastAPI()
    app.state.gateway = parts

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse({"error": {"message": error.message, "code": error.code}}, error.status, error.headers)

    @app.exception_handler(access.SignIn)
    async def to_sign_in(_: Request, error: access.SignIn) -> RedirectResponse:
        return RedirectResponse(error.location, 303)

    @app.get("/models")
    async def models(who: Caller = Depends(access.caller("models"))) -> dict[str, str]:  # noqa: B008
        return {"key": who.id}

    @app.get("/queue")
    async def queue(request: Request, who: Person = Depends(access.person())) -> HTMLResponse:  # noqa: B008
        return HTMLResponse(f"{who.name} {request.state.session.csrf}")

    @app.post("/queue")
    async def decide(request: Request, who: Person = Depends(access.person())) -> HTMLResponse:  # noqa: B008
        return HTMLResponse(f"{who.name} {(await request.form()).get('verdict', '')}")

    @app.get("/admin")
    async def admin(who: Person = Depends(access.person("admin"))) -> HTMLResponse:  # noqa: B008
        return HTMLResponse(who.name)

    @app.post("/sign-in")
    async def sign_in(request: Request) -> HTMLResponse:
        form = await request.form()
        response = HTMLResponse("ok")
        found = await access.sign_in(parts, request, str(form["name"]), str(form["password"]), response)
        return response if found else HTMLResponse("no", 403)

    @app.post("/sign-out")
    async def sign_out(who: Person = Depends(access.person())) -> HTMLResponse:  # noqa: B008
        response = HTMLResponse("bye")
        await access.sign_out(parts, who, response)
        return response

    app.add_middleware(access.Renewal, gateway=parts)
    return app


@pytest.fixture
def parts(store: Store, journal: Journal, people: People) -> Parts:
    return Parts(Settings(upstream="http://x"), Keys(store, journal), people)


def _client(parts: Parts, host: str = "127.0.0.1", url: str = "http://127.0.0.1:8080") -> TestClient:
    return TestClient(_app(parts), base_url=url, client=(host, 5000), follow_redirects=False)


def test_a_route_wants_a_key_with_its_scope(parts: Parts) -> None:
    _, token = parts.keys.make("a", ["models"], by="me")
    _, other = parts.keys.make("b", ["chat"], by="me")
    client = _client(parts)
    assert client.get("/models", headers={"authorization": f"Bearer {token}"}).status_code == 200
    for header, status, code in (
        ({}, 401, "invalid_api_key"),
        ({"authorization": "Bearer tmp-" + "x" * 43}, 401, "invalid_api_key"),
        ({"authorization": f"Basic {token}"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {other}"}, 403, "scope"),
    ):
        answer = client.get("/models", headers=header)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "tmp-x" not in answer.text


def test_without_any_key_only_this_machine_gets_in(parts: Parts) -> None:
    assert _client(parts).get("/models").json() == {"key": "local"}
    assert _client(parts).get("/models", headers={"authorization": "Bearer sk-none"}).json() == {"key": "local"}
    assert _client(parts, host="192.0.2.7").get("/models").status_code == 401
    assert _client(parts, url="http://evil.example:8080").get("/models").status_code == 401
    for header in ({"x-forwarded-for": "192.0.2.7"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert _client(parts).get("/models", headers=header).status_code == 401
    closed = Parts(Settings(upstream="http://x", open_loopback=False), parts.keys, parts.people)
    assert _client(closed).get("/models").status_code == 401
    beyond = Parts(Settings(upstream="http://x", host="0.0.0.0"), parts.keys, parts.people)
    assert _client(beyond).get("/models").status_code == 401
    parts.keys.make("a", by="me")
    assert _client(parts).get("/models").status_code == 401


def test_a_page_wants_a_person_and_a_form_the_token(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.people.add("ann", PASSWORD, "reviewer", by="me")
    client = _client(parts)
    away = client.get("/queue")
    assert (away.status_code, away.headers["location"]) == (303, "/sign-in?next=/queue")
    assert client.post("/sign-in", data={"name": "ann", "password": "wrong"}).status_code == 403
    entered = client.post("/sign-in", data={"name": "ann", "password": PASSWORD})
    assert re.search(r"HttpOnly; Path=/; SameSite=strict$", entered.headers["set-cookie"])
    page = client.get("/queue")
    name, csrf = page.text.split()
    assert name == "ann"
    assert "set-cookie" not in page.headers
    assert client.post("/queue", data={"verdict": "release"}).status_code == 403
    assert client.post("/queue", data={"verdict": "release", "csrf": "0" * 64}).status_code == 403
    assert client.post("/queue", data={"verdict": "release", "csrf": csrf}).text == "ann release"
    assert client.post("/queue", headers={"x-csrf-token": csrf}).status_code == 200
    assert client.get("/admin").status_code == 403
    _shift(monkeypatch, "time", 120)
    assert "temper_session=" in client.get("/queue").headers["set-cookie"]
    assert client.get("/queue").text.split() == ["ann", csrf]
    assert client.post("/sign-out", data={"csrf": csrf}).status_code == 200
    assert client.get("/queue").status_code == 303


def test_behind_https_the_cookie_is_secure(parts: Parts) -> None:
    parts.people.add("ann", PASSWORD, "admin", by="me")
    public = Parts(Settings(upstream="http://x", public_url="https://gate.example"), parts.keys, parts.people)
    entered = _client(public, url="https://gate.example").post("/sign-in", data={"name": "ann", "password": PASSWORD})
    assert entered.headers["set-cookie"].startswith("__Host-temper=")
    assert "Secure" in entered.headers["set-cookie"]


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ("/queue?x=1", "/queue?x=1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("", "/"),
        ("/a\r\nb", "/"),
    ],
)
def test_after_the_sign_in_one_stays_on_this_site(given: str, page: str) -> None:
    assert access.next_page(given) == page


def test_the_commands_add_people_make_keys_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    missing = runner.invoke(audit_cli.app, ["verify"])
    assert isinstance(missing.exception, UsageError)
    assert list(tmp_path.iterdir()) == []
    added = runner.invoke(people_cli.app, ["add", "ann", "--role", "admin"], input=f"{PASSWORD}\n")
    assert (added.exit_code, added.output) == (0, "ann may sign in as admin\n")
    made = runner.invoke(keys_cli.app, ["make", "app", "--per-minute", "5"])
    token = made.stdout.strip()
    assert re.fullmatch(r"tmp-[\w-]{43}", token)
    listed = runner.invoke(keys_cli.app, ["list"]).output
    assert "live until" in listed
    assert token not in listed
    id_ = listed.split()[0]
    assert runner.invoke(keys_cli.app, ["revoke", id_]).output == f"{id_} is revoked\n"
    assert "revoked" in runner.invoke(keys_cli.app, ["list"]).output
    assert runner.invoke(people_cli.app, ["password", "ann"], input=f"{PASSWORD}2\n").exit_code == 0
    assert runner.invoke(people_cli.app, ["disable", "ann"]).exit_code == 0
    assert runner.invoke(people_cli.app, ["list"]).output == "admin     disabled  ann\n"
    good = runner.invoke(audit_cli.app, ["verify"])
    assert good.exit_code == 0
    assert "no change was found" in good.output
    store = Store("sqlite:///temper.db")
    store.now(lambda c: c.exec_driver_sql("DELETE FROM journal WHERE kind = 'key.revoked'"))
    store.close()
    bad = runner.invoke(audit_cli.app, ["verify"])
    assert bad.exit_code == 1
    assert re.search(r"^problem: lane_\w+ row 4: 1 rows before it were removed$", bad.output, re.MULTILINE)
