"""The review pages in a real browser and by plain requests: what people do, what attackers try, who cannot see or use a mouse."""

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

import httpx
import uvicorn
from argon2 import PasswordHasher
from bounded import WAIT_S, joined, until
from browsers import CALL_MS, Chromium, chromium
from fastapi import FastAPI, Request
from playwright.sync_api import ConsoleMessage, Error, Page, expect
from serve_parts import answer, opened
from sqlalchemy import insert, select
from starlette.responses import JSONResponse

from temper.serve import holds_api, pages
from temper.serve.access import Renewal
from temper.serve.guard import Guard
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.keys import Keys
from temper.serve.limits import Limiter
from temper.serve.pages.marks import of, pieces
from temper.serve.people import People, Person
from temper.serve.policy import ChannelPolicy, Policy, Review, Setting
from temper.serve.protocol import ApiError
from temper.serve.review import Holds, Links
from temper.serve.state import Gateway, Settings
from temper.serve.tables import audits, counters, journal, policies
from temper.serve.vault import Vault
from temper.serve.verdict import Action, Canary, Channel, Finding, Turn, View
from temper.serve.webhooks import Hooks
from temper.types import Example

PASSWORD = "correct horse battery"
SEAT_S = 120.0  # the longest takes four seconds
REVIEW = Review(two_person=("weapons",), second=1.0, lease_s=600.0)
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script><a href="javascript:document.title=3">x</a>'
BIDI = "safe \u202etxet neddih\u202c \u200b end"


@dataclass(frozen=True, slots=True)
class Phrase:
    """A filter of the test's own: finds one phrase."""

    phrase: str = "forbidden"
    name: str = "phrase"
    pace: str = "window"
    reach: int = 9
    heavy: bool = False
    default_channels: tuple[Channel, ...] = tuple(Channel)
    default_action: Action = Action.BLOCK

    def __call__(self, view: View, /) -> Sequence[Finding]:
        return [
            Finding(self.name, "r1", "weapons", start=m.start(), end=m.end(), score=0.9, why="the phrase was found")
            for m in re.finditer(self.phrase, view.text)
        ]

    def canary(self, channel: Channel, /) -> Canary:
        raise NotImplementedError


def policy() -> Policy:
    def setting(name: str, **changes: Any) -> Setting:
        return Setting(
            **{"name": name, "kind": "phrase", "filter": Phrase(), "channels": tuple(Channel), "action": Action.BLOCK, **changes}
        )

    filters = (
        setting("phrase"),
        setting("trial", filter=Phrase("perhaps"), shadow=True),
        setting("frail", on_error=Action.ALLOW, reason="its server is rebuilt this week"),
    )
    return Policy(name="test", version="v1", filters=filters, channels={c: ChannelPolicy() for c in Channel}, review=REVIEW)


@dataclass
class Site:
    """A running application with its parts, and a loop in its thread."""

    url: str
    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    people: dict[str, Person] = field(default_factory=dict)

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def item(self, **changes: Any) -> str:
        text = changes.pop("text", "You could say that perhaps the forbidden word is here.")
        spans = [("phrase", "forbidden", False), ("trial", "perhaps", True)]
        found = [
            {
                "filter": name, "rule": "r1", "category": "harassment", "channel": "content", "choice": 0, "action": "review",
                "start": text.index(word), "end": text.index(word) + len(word), "score": 0.93, "shadow": shadow,
                "why": "a phrase of the list",
            }
            for name, word, shadow in spans if word in text
        ]  # fmt: skip
        given: dict[str, Any] = {
            "kind": "output",
            "category": "harassment",
            "findings": found,
            "request": {
                "model": "m",
                "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say the word."}],
            },
            "answers": [{"reasoning": "The user wants the word. I weigh whether to say it.", "content": text, "calls": []}],
        }
        turn = Turn("resp_1", Example("e", ()), key="key_1", policy="v1")
        return cast(str, self.do(self.gateway.holds.hold(turn, **{**given, **changes}, review=REVIEW)))

    @contextmanager
    def client(self, name: str = "") -> Iterator[httpx.Client]:
        cookies = {"temper_session": self.cookie(name)} if name else {}
        with httpx.Client(base_url=self.url, cookies=cookies, timeout=WAIT_S) as client:
            yield client

    def cookie(self, name: str) -> str:
        """A session, without the second that a password takes."""
        return self.gateway.people.cookie(self.people[name])

    def kinds(self) -> list[tuple[str, str]]:
        self.gateway.journal.flush()
        rows = self.gateway.store.now(lambda c: c.execute(select(journal.c.kind, journal.c.subject)).all(), reads=True)
        return [(kind, subject) for kind, subject in rows]


@contextmanager
def running(folder: Path, *, port: int = 0) -> Iterator[Site]:
    keyring = Keyring([bytes(range(32))])
    store = opened(f"sqlite:///{folder / 'temper.db'}")
    log = Journal(store, keyring, folder / "checkpoints")
    log.start()
    vault, hooks = Vault(store, keyring), Hooks(store, keyring, log)
    nothing: Any = SimpleNamespace()
    gateway = Gateway(
        settings=Settings(upstream="", checkpoints=folder / "checkpoints", policy="test"),
        guard=Guard(policy()),
        keyring=keyring,
        store=store,
        vault=vault,
        journal=log,
        keys=Keys(store, log),
        people=People(store, keyring, log),
        limits=Limiter(store),
        hooks=hooks,
        holds=Holds(store, vault, log, hooks),
        upstream=nothing,
        meters=nothing,
        ready=nothing,
        pool=nothing,
    )
    gateway.people._hasher = PasswordHasher(time_cost=1, memory_cost=1024)  # what it costs to guess is tested elsewhere
    app = FastAPI()
    app.state.gateway = gateway
    app.include_router(pages.routes(gateway))
    app.include_router(holds_api.routes(gateway))
    app.add_middleware(Renewal, gateway=gateway)

    @app.exception_handler(ApiError)
    async def told(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(json.loads(error.body()), error.status, headers=error.headers)

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), "the pages' server to start")
    assert server.started, "the pages' server did not start"
    site = Site(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", gateway, loops[0])
    for name, role in (("anna", "reviewer"), ("ben", "reviewer"), ("cara", "admin")):
        site.people[name] = gateway.people.add(name, PASSWORD, role, by="test")
    try:
        yield site
    finally:
        server.should_exit = True
        joined(thread, "the pages' server to stop")
        log.stop()
        store.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@contextmanager
def seat(browser: Chromium, site: Site, name: str = "anna", **options: Any) -> Iterator[Page]:
    """A browser window, signed in where a name is given; any error on a page's console fails the test."""
    wrong: list[str] = []

    def said(message: ConsoleMessage) -> None:
        # the browser tells of every 4xx; those are answers here, and tested as such
        if message.type == "error" and "status of 4" not in message.text:
            wrong.append(message.text)

    def broke(error: Error) -> None:
        wrong.append(str(error))

    with browser.ending("what a test does in the browser", SEAT_S):
        page = _window(browser, site, options)
        page.on("console", said)
        page.on("pageerror", broke)
        if name:
            page.context.add_cookies([{"name": "temper_session", "value": site.cookie(name), "url": site.url}])
        try:
            yield page
        finally:
            page.goto("about:blank")
            page.remove_listener("console", said)
            page.remove_listener("pageerror", broke)
    assert not wrong, wrong


def _window(browser: Chromium, site: Site, options: dict[str, Any]) -> Page:
    """An empty window without cookies. A profile and its process cost more than most tests: each kind of them is made once."""
    windows: dict[str, Page] = vars(site.gateway.upstream).setdefault("windows", {})
    if str(options) not in windows:
        windows[str(options)] = browser.browser.new_context(base_url=site.url, **options).new_page()
        windows[str(options)].set_default_timeout(CALL_MS)
    page = windows[str(options)]
    page.context.clear_cookies()
    return page


def test_a_reviewer_works_the_queue_by_keyboard_alone(site: Site, browser: Chromium) -> None:
    ids = [site.item(category="keyboard") for _ in range(2)]
    with seat(browser, site, "") as page:
        page.goto("/review")
        page.keyboard.type("anna")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Queue")
        page.goto("/review?category=keyboard")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        page.keyboard.press("o")
        page.wait_for_url(f"**/review/items/{ids[0]}")
        page.keyboard.press("l")
        expect(page.get_by_text("You have this item until")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("r")  # keys do nothing behind the dialog
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        expect(page.get_by_role("button", name="Release", exact=False).first).to_be_focused()
        assert site.do(site.gateway.holds.outcome(ids[0])).state == "waiting", "the key alone decides nothing"
        page.keyboard.press("Enter")
        page.wait_for_url("**/review")
        assert site.do(site.gateway.holds.outcome(ids[0])).state == "released"
        page.goto(f"/review/items/{ids[1]}")
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type("A kinder answer, r x l and all.")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/review")
    outcome = site.do(site.gateway.holds.outcome(ids[1]))
    assert outcome.state == "edited" and outcome.answers[0]["content"] == "A kinder answer, r x l and all."
    told = site.kinds()
    assert ("hold.viewed", ids[0]) in told and ("hold.decided", ids[1]) in told


def test_every_page_works_with_scripts_off(site: Site, browser: Chromium) -> None:
    id = site.item(category="weapons")
    with seat(browser, site, java_script_enabled=False) as page:
        page.goto("/review?state=waiting&category=weapons")
        page.get_by_role("link", name="weapons").first.click()
        page.get_by_role("button", name="Take it").click()
        page.get_by_label("unsafe").check()
        page.get_by_label("Note for other reviewers").fill("looks harmless")
        page.get_by_role("button", name="Release", exact=False).first.click()
        expect(page.get_by_text("Another person has to agree")).to_be_visible()
    with seat(browser, site, "ben", java_script_enabled=False) as page:
        page.goto(f"/review/items/{id}")
        expect(page.get_by_text("looks harmless")).to_be_visible()
        page.get_by_role("button", name="Refuse").click()
        page.wait_for_url("**/review")
    assert site.do(site.gateway.holds.outcome(id)).state == "refused"


def test_the_queue_tells_of_new_items_by_itself(site: Site, browser: Chromium) -> None:
    with seat(browser, site) as page:
        page.clock.install()
        page.goto("/review?category=live")
        expect(page.get_by_text("Nothing waits for a person.")).to_be_visible()
        site.item(category="live")
        page.clock.fast_forward(4_000)
        expect(page.locator("tr[data-item]")).to_have_count(1)
        expect(page.locator("#told")).to_have_text("1 item waiting")


def test_a_second_reviewer_sees_who_has_an_item(site: Site, browser: Chromium) -> None:
    id = site.item()
    assert site.do(site.gateway.holds.claim(id, site.people["ben"], 30))
    with seat(browser, site) as page:
        page.goto(f"/review/items/{id}")
        expect(page.get_by_text("ben has this item until")).to_be_visible()
        page.get_by_role("button", name="Release", exact=False).first.click()
        expect(page.get_by_role("alert")).to_contain_text("Ben has this item")


def test_findings_are_marked_with_their_numbers(site: Site, browser: Chromium) -> None:
    id = site.item()
    with seat(browser, site) as page:
        page.goto(f"/review/items/{id}")
        marks = page.locator("mark")
        assert [m.strip() for m in marks.all_inner_texts()] == ["perhaps2", "forbidden1"]
        assert marks.nth(0).get_attribute("class") == "quiet", "a shadow's mark is quieter"
        row = page.locator("#finding-1")
        expect(row).to_contain_text("phrase")
        expect(row).to_contain_text("0.93")


def test_a_second_rating_is_given_blind(site: Site, browser: Chromium) -> None:
    id = site.item(category="blindfold")
    site.do(site.gateway.holds.decide(id, site.people["ben"], "refuse", label="unsafe", note="bens note", message="bens message"))
    with site.client("anna") as client:
        for state in ("refused", "any"):
            assert id not in client.get("/review", params={"state": state}).text, "its state is a verdict"
        assert id not in client.get("/review/rows", params={"state": "refused"}).text
        trail = client.get("/review/trail", params={"subject": id}).text
        assert "hold.rated" in trail and "verdict&#34;" not in trail and "unsafe" not in trail
    with seat(browser, site) as page:
        page.goto("/review/second")
        page.locator(f"tr[data-item={id}] a").click()
        shown = page.content()
        for secret in ("bens note", "bens message", "refused", ">ben<"):
            assert secret not in shown, secret
        page.get_by_label("safe", exact=True).check()
        page.get_by_role("button", name="Release", exact=False).first.click()
        page.wait_for_url("**/review/second")
        assert page.locator(f"tr[data-item={id}]").count() == 0
    with site.client("anna") as client:
        assert id in client.get("/review", params={"state": "refused"}).text
        assert "verdict&#34;:&#34;refuse" in client.get("/review/trail", params={"subject": id}).text


HOSTILE = [MARKUP, BIDI, "</textarea><script>document.title=4</script>", "{{ 7*7 }}", '" autofocus onfocus=alert(1) x="']


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_of_a_model_or_user_stays_text(site: Site, browser: Chromium, text: str) -> None:
    call = {"name": text, "call_id": "1", "arguments": text}
    asked = {
        "model": text,
        "messages": [{"role": text, "content": text}, {"role": "user", "content": [{"type": "text", "text": text}]}],
    }
    answers = [{"reasoning": text, "content": text, "calls": [call]}]
    finding = {
        "filter": text,
        "rule": text,
        "category": text,
        "channel": "content",
        "start": 1,
        "end": 5,
        "why": text,
        "score": None,
    }
    id = site.item(category=text[:64], request=asked, answers=answers, findings=[finding])
    with seat(browser, site) as page:
        for where in ("/review", f"/review/items/{id}"):
            page.goto(where)
            assert page.title().endswith("· temper")
            assert page.locator("main img, main script, main a[href^=javascript], main [onfocus], main [onerror]").count() == 0
            assert not re.search("[\u202a-\u202e\u200b]", page.locator("body").inner_text()), "hidden characters are spelled out"
        if text == BIDI:
            expect(page.locator(".pair")).to_contain_text("[U+202E]")
        if "7*7" in text:
            expect(page.locator(".pair")).to_contain_text("{{ 7*7 }}")


def test_hostile_names_of_keys_and_people_stay_text(site: Site, browser: Chromium) -> None:
    with seat(browser, site, "cara") as page:
        page.goto("/review/keys")
        page.get_by_label("Name").fill(MARKUP)
        page.get_by_role("button", name="Make the key").click()
        token = page.locator(".secret").inner_text()
        assert re.fullmatch(r"tmp-[\w-]{43}", token)
        assert page.locator("main img, main script").count() == 0
        page.goto("/review/keys")
        assert token not in page.content(), "a key is shown once"
        page.get_by_role("button", name="Revoke the key").first.click()
        expect(page.locator("tbody tr").first).to_contain_text("revoked")


def test_headers_forbid_all_but_our_own_files(site: Site) -> None:
    with site.client("anna") as client:
        id = site.item()
        for path in (
            "/review",
            f"/review/items/{id}",
            "/review/board",
            "/sign-in",
            "/appeal/x",
            "/review/static/page.js",
            "/review/items/none",
        ):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy, path
            assert "unsafe" not in policy and "*" not in policy
            assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            text = re.sub('"[^"]*"', '""', client.get(path).text)  # what stands in a value is no attribute
            assert not re.search(r"<[^>]+\s(style|on\w+)=", text) and "<style" not in text, path
            assert not re.search(r"<script(?![^>]*\ssrc=)", text), path
        assert client.get("/review").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/review/../../evil",
        "javascript:alert(1)",
        "/reviewevil",
        "\t//evil.example",
    ],
)
def test_a_sign_in_leads_nowhere_else(site: Site, to: str) -> None:
    with site.client() as client:
        response = client.post("/sign-in", data={"name": "anna", "password": PASSWORD, "next": to})
        assert response.status_code == 303
        assert httpx.URL(site.url).join(response.headers["location"]).host == "127.0.0.1"
        assert response.headers["location"].split("?")[0].startswith("/review")


def test_a_sign_in_goes_back_to_where_one_was_sent_from(site: Site) -> None:
    with site.client() as client:
        sent = client.get("/review/board")
        assert sent.status_code == 303 and sent.headers["location"] == "/sign-in?next=/review/board"
        back = client.post("/sign-in", data={"name": "anna", "password": PASSWORD, "next": "/review/board"})
        assert back.headers["location"] == "/review/board"


def test_a_form_from_another_site_signs_nobody_in(site: Site) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        with site.client() as client:
            response = client.post("/sign-in", data={"name": "anna", "password": PASSWORD}, headers=headers)
            assert response.status_code == 413 and not response.cookies


def test_a_form_without_its_token_changes_nothing(site: Site) -> None:
    id = site.item()
    with site.client("cara") as client:
        for path, data in (
            (f"/review/items/{id}", {"verdict": "release"}),
            (f"/review/items/{id}/lease", {"act": "claim"}),
            ("/review/keys", {"name": "x", "scopes": "chat"}),
            ("/review/people", {"name": "eve", "password": PASSWORD, "role": "admin"}),
            ("/review/policies", {"name": "x", "note": "y", "text": ""}),
            ("/review/preview", {"text": "x"}),
            ("/review/trail/verify", {}),
            ("/review/hooks", {"url": "https://example.org", "events": "alert"}),
            ("/sign-out", {}),
        ):
            for token in ({}, {"csrf": "0" * 64}):
                assert client.post(path, data={**data, **token}).status_code == 403, path
        assert client.get("/review").status_code == 200, "still signed in"
    assert site.do(site.gateway.holds.outcome(id)).state == "waiting"


def test_a_session_is_made_by_the_sign_in_and_ends_with_the_sign_out(site: Site) -> None:
    with site.client() as client:
        client.cookies.set("temper_session", "planted")
        assert client.post("/sign-in", data={"name": "ben", "password": PASSWORD}).status_code == 303
        made = client.get("/review")
        cookie = client.cookies.get("temper_session", domain="127.0.0.1")
        assert made.status_code == 200 and cookie and cookie != "planted"
        token = re.search(r'name="csrf" value="(\w+)"', made.text)
        assert token and client.post("/sign-out", data={"csrf": token[1]}).status_code == 303
    with httpx.Client(base_url=site.url, cookies={"temper_session": cookie}, timeout=WAIT_S) as thief:
        assert thief.get("/review").status_code == 303, "a cookie of an ended session is void"


def test_reviewers_see_no_admin_page_and_strangers_none(site: Site) -> None:
    with site.client("anna") as client:
        for path in ("/review/keys", "/review/people", "/review/hooks"):
            assert client.get(path).status_code == 403
            assert path not in client.get("/review").text
    with site.client() as client:
        for path in (
            "/review",
            "/review/rows",
            "/review/items/x",
            "/review/second",
            "/review/board",
            "/review/trail",
            "/review/policies",
            "/review/preview",
        ):
            assert client.get(path).status_code == 303, path


def test_wrong_passwords_are_slowed_down(site: Site) -> None:
    site.gateway.people.add("dora", PASSWORD, "reviewer", by="test")
    with site.client() as client:
        codes = [client.post("/sign-in", data={"name": "dora", "password": "wrong"}).status_code for _ in range(6)]
    assert codes[0] == 401 and 429 in codes
    site.gateway.people._slow.right(("name dora", "address 127.0.0.1"))


def test_an_appeal_is_made_once_from_its_link(site: Site, browser: Chromium) -> None:
    box = site.do(
        site.gateway.holds.keep(request={"model": "m", "messages": []}, answers=[{"content": "the text"}], review=REVIEW)
    )
    site.gateway.journal.response(_response("resp_appealed", "block", box))
    site.gateway.journal.flush()
    link = Links(site.gateway.keyring).url(site.url, "resp_appealed")
    with seat(browser, site, "", java_script_enabled=False) as page:
        page.goto(link)
        page.get_by_label("Why should it not").fill(MARKUP)
        page.get_by_role("button").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("A person will look at it")
        assert "the text" not in page.content()
        page.goto(link)
        assert page.get_by_role("button").count() == 0, "no second appeal"
        page.goto(link[:-3] + "xyz")
        expect(page.get_by_role("heading", level=1)).to_have_text("This link is not valid")
    with seat(browser, site) as page:
        page.goto("/review?kind=appeal")
        page.locator("tr[data-item] a").first.click()
        expect(page.get_by_text("<img src=x")).to_be_visible()
        page.get_by_role("button", name="Refuse").click()
    with site.client() as client:
        assert "A reviewer refused this answer." in client.get(link).text
        assert client.post(link, headers={"origin": "https://evil.example"}).status_code == 413
        assert client.post(link, data={"why": "x" * 40_000}).status_code == 413
        slowed = any(client.get(f"{site.url}/appeal/x").status_code == 429 for _ in range(200))
    assert slowed, "guessing is slowed down"


def test_the_preview_says_what_each_filter_says(site: Site, browser: Chromium) -> None:
    with seat(browser, site) as page:
        page.goto("/review/preview")
        page.get_by_label("Channel").select_option("reasoning")
        page.get_by_label("Text").fill("perhaps the forbidden\nword")
        page.get_by_role("button", name="Scan").click()
        expect(page.get_by_role("status")).to_contain_text("block")
        assert "forbidden1" in page.locator("mark").first.inner_text() or page.locator("mark").count() == 2
        expect(page.get_by_role("row", name=re.compile("^trial"))).to_contain_text("shadow")
    with site.client("anna") as client:
        token = re.search(r'name="csrf" value="(\w+)"', client.get("/review/preview").text)
        assert token
        raw = "perhaps\r\n\u200b\u202e"
        again = client.post("/review/preview", data={"csrf": token[1], "text": raw}).text
        box = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", again, re.S)
        assert box and box[1] == "perhaps\n\u200b\u202e", "a second scan reads the same text"
        long = client.post("/review/preview", data={"csrf": token[1], "text": "x" * 20_001, "channel": "content"})
        assert long.status_code == 400
        assert client.post("/review/preview", data={"csrf": token[1], "text": "x", "channel": "nowhere"}).status_code == 400
        for file in (str(secret_file := site.gateway.settings.secret), f"{secret_file.parent}/../x.toml", "/etc/hostname.toml"):
            told = client.post("/review/preview", data={"csrf": token[1], "text": "x", "policy": file})
            assert told.status_code == 400 and "one that the form offers" in told.text, file
    rows = site.gateway.store.now(
        lambda c: c.execute(select(journal.c.body).where(journal.c.kind == "policy.previewed")).scalars().all()
    )
    assert rows and "forbidden" not in str(rows)


def test_filters_that_do_not_protect_are_told_with_their_reason(site: Site) -> None:
    with site.client("anna") as client:
        site.gateway.guards["law"] = site.gateway.guard
        assert "of the policy law" in client.get("/review").text
        del site.gateway.guards["law"]
        assert "of the policy law" not in client.get("/review").text
        for path in ("/review", "/review/board", "/review/policies"):
            text = client.get(path).text
            assert "runs in shadow" in text and "its server is rebuilt this week" in text, path


def test_the_dashboards_count_what_is_in_the_database(site: Site) -> None:
    for i in range(8):
        site.gateway.journal.response(_response(f"resp_board_{i}", "block" if i < 2 else "allow", None))
    site.gateway.journal.flush()
    common = {"hour": int(time.time() // 3600), "key_id": "k", "model": "m", "n": 4, "squares": 1.0}
    counted = [{**common, "name": "language-switch", "total": 4.0}, {**common, "name": "score:harm", "total": 1.0}]
    site.gateway.store.now(lambda c: c.execute(insert(counters), counted))
    with site.client("anna") as client:
        assert "No scheduled audit has judged anything yet" in client.get("/review/board").text
        report = json.dumps({"rate": {"value": 0.0321}})
        audit = {"id": "audit_1", "at": time.time(), "since": 0.0, "until": 1.0, "policy": "v1", "passed": 900, "judged": 60}
        audit |= {"missed": 2, "low": 0.01, "high": 0.11, "report": report}
        site.gateway.store.now(lambda c: c.execute(insert(audits), audit))
        text = client.get("/review/board").text
    assert "2 should not have passed, an estimated 3 % of all (95 % interval 1 % to 11 %)" in text
    assert "language-switch" in text and "mean of harm" in text and "0.25" in text
    assert "<svg" in text and "p50 / p99" in text
    assert re.search(r"released \d+ % of \d+ decided items unchanged \(95 % interval", text)


def test_the_trail_is_filtered_and_verified(site: Site, browser: Chromium) -> None:
    id = site.item()
    with seat(browser, site, "cara") as page:
        page.goto(f"/review/trail?subject={id}")
        assert page.locator("tbody tr").count() == 1
        expect(page.locator("tbody tr")).to_contain_text("hold.made")
        page.get_by_role("button", name="Verify the whole chain").click()
        expect(page.get_by_role("status").first).to_contain_text("The chain is whole")
    with site.client("anna") as client:
        token = re.search(r'name="csrf" value="(\w+)"', client.get("/review").text)
        assert token and client.post("/review/trail/verify", data={"csrf": token[1]}).status_code == 403
        for before in ("x", "1.0", "1.0 lane x", "nan a 1", "1e999 a 1", "9" * 400 + " a 1", "1.0 a " + "9" * 5000):
            assert client.get("/review/trail", params={"before": before}).status_code == 200, before
    assert ("trail.viewed", site.people["cara"].id) in site.kinds()


def test_policies_are_stored_compared_activated_and_rolled_back(
    site: Site, browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    async def reload(gateway: Gateway) -> list[str]:
        """What takes the policy up is the gateway's and tested there."""
        active = select(policies.c.note).where(policies.c.active)
        asked.append(list(gateway.store.now(lambda c: c.execute(active).scalars().all())))
        return []

    monkeypatch.setattr("temper.serve.pages.policies.reload", reload)
    with seat(browser, site, "cara") as page:
        for note, text in (("first", 'thinks = "auto"\n'), ("second", 'thinks = "yes"\nlogprobs = true\n')):
            page.goto("/review/policies")
            page.get_by_label("Note: what changes").fill(note)
            page.get_by_label("policy.toml").fill(text)
            page.get_by_role("button", name="Check and store").click()
            page.get_by_label("Note: why").fill("because")
            page.get_by_role("button", name="this version").click()
            page.wait_for_url("**/review/policies")
        page.locator("tbody tr", has_text="first").get_by_role("link").click()
        expect(page.locator(".diff .add")).to_have_text(['+thinks = "auto"'])
        assert page.locator(".diff .del").count() == 2
        page.get_by_label("Note: why").fill("back")
        page.get_by_role("button", name="Roll back to this version").click()
        page.wait_for_url("**/review/policies")
        page.get_by_label("Note: why").fill("away")
        page.get_by_role("button", name="Use the policy the gateway").click()
        page.wait_for_url("**/review/policies")
        assert asked == [["first"], ["second"], ["first"], []]
        page.get_by_label("Note: what changes").fill("broken")
        page.get_by_label("policy.toml").fill("thinks = 3")
        page.get_by_role("button", name="Check and store").click()
        expect(page.get_by_role("alert")).to_contain_text("thinks")
        assert page.get_by_label("policy.toml").input_value() == "thinks = 3", "a draft is not lost"


def test_a_policy_that_fails_its_self_test_is_taken_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.errors import GuardError

    async def reload(_: Gateway) -> list[str]:
        raise GuardError("policy other: the self-test failed")

    monkeypatch.setattr("temper.serve.pages.policies.reload", reload)
    row = {
        "id": "policy_bad",
        "name": "other",
        "version": "x",
        "text": "",
        "made_at": 1.0,
        "made_by": "t",
        "note": "",
        "active": False,
    }
    site.gateway.store.now(lambda c: c.execute(insert(policies).values(**row)))
    with site.client("cara") as client:
        token = re.search(r'name="csrf" value="(\w+)"', client.get("/review").text)
        assert token
        said = client.post("/review/policies/policy_bad/activate", data={"csrf": token[1], "note": "try"})
        assert said.status_code == 409 and "the self-test failed" in said.text
    assert not site.gateway.store.now(lambda c: c.scalar(select(policies.c.active).where(policies.c.id == "policy_bad")))


def test_people_are_added_and_disabled(site: Site, browser: Chromium) -> None:
    with seat(browser, site, "cara") as page:
        page.goto("/review/people")
        page.get_by_label("Name").fill("eve")
        page.get_by_label("First password").fill(PASSWORD)
        page.get_by_role("button", name="Add").click()
        eve_id = next(p["id"] for p in site.gateway.people.all() if p["name"] == "eve")
        site.people["eve"] = Person(eve_id, "eve", "reviewer")
        with site.client("eve") as eve:
            assert eve.get("/review").status_code == 200
            page.get_by_role("button", name="Disable eve").click()
            expect(page.get_by_role("row", name=re.compile("^eve"))).to_contain_text("disabled")
            assert eve.get("/review").status_code == 303
        with site.client("cara") as client:
            token = re.search(r'name="csrf" value="(\w+)"', client.get("/review").text)
            assert token
            me = site.people["cara"].id
            assert client.post(f"/review/people/{me}/disable", data={"csrf": token[1]}).status_code == 409


def test_a_webhook_shows_its_secret_once(site: Site, browser: Chromium) -> None:
    with seat(browser, site, "cara") as page:
        page.goto("/review/hooks")
        page.get_by_label("Address").fill("https://example.org/hook")
        page.get_by_role("button", name="Add").click()
        secret = page.locator(".secret").inner_text()
        assert secret.startswith("whsec_")
        page.goto("/review/hooks")
        assert secret not in page.content()
        expect(page.locator("tbody tr")).to_contain_text("https://example.org/hook")
        page.get_by_role("button", name="Disable https").click()
        expect(page.locator("tbody tr")).to_contain_text("disabled")


def test_a_client_gets_what_became_of_its_own_ticket_alone(site: Site) -> None:
    own_id, own = site.gateway.keys.make("own", ["holds"], by="test")
    _, other = site.gateway.keys.make("other", ["holds"], by="test")
    _, admin = site.gateway.keys.make("admin", ["holds", "admin"], by="test")
    _, chat = site.gateway.keys.make("chat", ["chat"], by="test")
    calls = [{"name": "f", "call_id": "c1", "arguments": "{}"}]
    turn = Turn("resp_9", Example("e", ()), key=own_id, policy="v1")
    answers = [{"reasoning": "thought", "content": "said", "calls": calls}]
    hold = site.gateway.holds.hold
    id = site.do(hold(turn, kind="output", category="x", findings=[], request={"model": "m"}, answers=answers, review=REVIEW))
    path = f"/v1/holds/{id}"

    def ask(token: str, prefer: str = "") -> httpx.Response:
        return httpx.get(site.url + path, headers={"authorization": f"Bearer {token}", "prefer": prefer}, timeout=WAIT_S)

    waiting = ask(own)
    assert waiting.json()["state"] == "waiting" and waiting.json()["result"] is None and waiting.headers["retry-after"]
    for token, status in ((other, 404), (chat, 403), ("tmp-nonsense", 401)):
        refused = ask(token)
        assert refused.status_code == status and set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert ask(admin).status_code == 200
    start = time.monotonic()
    assert ask(own, "wait=1").json()["state"] == "waiting" and 0.9 < time.monotonic() - start < 15
    got: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: got.append(ask(own, "respond-async, wait=20")))
    thread.start()
    time.sleep(0.1)
    site.do(site.gateway.holds.decide(id, site.people["anna"], "release"))
    joined(thread, "the answer that waits for a decision")
    assert got[0].headers["preference-applied"] == "wait=20"
    body = got[0].json()
    choice = body["result"]["choices"][0]
    assert body["state"] == "released" and body["refusal"] is None and body["result"]["object"] == "chat.completion"
    assert (
        choice["message"]["content"] == "said"
        and choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "thought"
    )
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert choice["finish_reason"] == "tool_calls"
    guard = site.gateway.guard
    hidden = {**guard.policy.channels, Channel.REASONING: ChannelPolicy(policy="hide")}
    site.gateway.guard = Guard(Policy(name="h", version="h", filters=(), channels=hidden))
    try:
        assert "thought" not in ask(own).text, "hidden thoughts stay hidden"
    finally:
        site.gateway.guard = guard


# Who cannot see, or use a mouse.

PATHS = (
    "/review",
    "/review/items/{id}",
    *(f"/review/{n}" for n in ("second", "board", "preview", "policies", "trail", "keys", "people", "hooks")),
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
NAMES = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a[href]')]
    .filter(e => e.getClientRects().length)
    .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))
    .map(e => e.outerHTML)"""
CONTRAST = """() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const seen = new Map();
  const rgba = (colour) => {
    if (seen.has(colour)) return seen.get(colour);
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    seen.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
    return seen.get(colour);
  };
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.map(v => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (e) => {
    for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return [255, 255, 255];
  };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('.heard, .skip')) continue;
    const ink = e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(rgba(ink).slice(0, 3)), light(ground(e).slice(0, 3))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${e.outerHTML.slice(0, 90)}`);
  }
  return bad;
}"""


def test_pages_have_names_landmarks_headings_and_contrast(site: Site, browser: Chromium) -> None:
    id = site.item()
    axe = os.environ.get("TEMPER_AXE", "")
    with seat(browser, site, "cara", **({"bypass_csp": True} if axe else {})) as page:
        for path in PATHS:
            page.goto(path.format(id=id))
            assert page.evaluate(NAMES) == [], path
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(CONTRAST) == [], f"{path}, {scheme}"
            assert page.locator("html[lang=en]").count() == page.locator("main").count() == page.locator("h1").count() == 1
            assert page.locator("nav[aria-label]").count() == 1 and page.locator("table:not(:has(caption))").count() == 0
            assert page.locator("main :is(h1, h2, h3)").first.evaluate("e => e.tagName") == "H1"
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
            assert len(ids) == len(set(ids)), f"{path}: an id stands twice"
            page.keyboard.press("Tab")
            expect(page.locator(".skip")).to_be_focused()
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            assert page.evaluate("!document.activeElement.closest('header')"), f"{path}: the link skips the navigation"
            if axe:
                page.add_script_tag(path=axe)
                for scheme in SCHEMES:
                    page.emulate_media(color_scheme=scheme)
                    found = page.evaluate("axe.run().then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html}`))")
                    assert found == [], f"{path}, {scheme}"


def test_the_focus_is_seen_and_nothing_overflows_a_phone(site: Site, browser: Chromium) -> None:
    id = site.item(text="perhaps forbidden " + "x" * 400)
    with seat(browser, site, "cara", viewport={"width": 390, "height": 800}) as page:
        for path in PATHS:
            page.goto(path.format(id=id))
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(width.removesuffix("px")) >= 2


@pytest.mark.parametrize(
    ("text", "spans", "wanted"),
    [
        ("abcdef", [], ["abcdef"]),
        ("abcdef", [(1, 3)], ["a", "bc:1", "def"]),
        ("abcdef", [(1, 4), (2, 6)], ["a", "b:1", "cd:12", "ef:2"]),
        ("abc", [(0, 3)], ["abc:1"]),
        ("abc", [(2, 9), (-1, 2), (2, 2), (3, 1)], ["abc"]),
    ],
)
def test_a_text_is_cut_where_findings_begin_and_end(text: str, spans: list[tuple[int, int]], wanted: list[str]) -> None:
    rows: list[Mapping[str, Any]] = [{"start": start, "end": end} for start, end in spans]
    made = pieces(text, of(rows))
    assert ["".join([p.text, *([":"] if p.numbers else []), *map(str, p.numbers)]) for p in made] == wanted
    assert "".join(p.text for p in made) == text


def _response(id: str, action: str, vault_id: str | None) -> dict[str, Any]:
    return cast(
        dict[str, Any],
        answer(id=id, action=action, vault_id=vault_id, findings=json.dumps([{"filter": "phrase", "category": "x"}])),
    )
