"""What every page shares: templates that escape, headers that allow our own files alone, times as people read them."""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, RedirectResponse, Response

from temper.serve.people import Person
from temper.serve.review import Item
from temper.serve.state import Gateway
from temper.serve.verdict import Action
from temper.text.invisible import spelled_out

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser hides the origin of our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LINKS = (
    ("/review", "Queue", "reviewer"),
    ("/review/second", "Second ratings", "reviewer"),
    ("/review/board", "Dashboards", "reviewer"),
    ("/review/preview", "Preview", "reviewer"),
    ("/review/policies", "Policies", "reviewer"),
    ("/review/trail", "Audit trail", "reviewer"),
    ("/review/keys", "API keys", "admin"),
    ("/review/people", "People", "admin"),
    ("/review/hooks", "Webhooks", "admin"),
)
ASSETS = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def page(
    template: str,
    *,
    title: str,
    person: Person | None = None,
    csrf: str = "",
    at: str = "",
    status: int = 200,
    wrong: str = "",
    good: str = "",
    narrow: bool = False,
    **shown: Any,
) -> Response:
    """A page. `shown` is what its template names; `wrong` and `good` are told above it, `at` is the link it stands under."""

    def csrf_field() -> Markup:
        return Markup('<input type="hidden" name="csrf" value="{}">').format(csrf)

    links = [(href, name) for href, name, role in LINKS if person and (role == "reviewer" or person.role == "admin")]
    frame = {"title": title, "person": person, "links": links, "at": at, "wrong": wrong, "good": good, "narrow": narrow}
    shown = {**frame, "csrf_field": csrf_field, "now": time.time(), **shown}
    return HTMLResponse(_environment().get_template(template).render(shown), status, headers=HEADERS)


def away(to: str) -> Response:
    """Off to another page after a form, so that a reload sends nothing twice."""
    return RedirectResponse(to, 303, headers=HEADERS)


@cache
def asset(name: str) -> bytes:
    """A style or script of ours."""
    return (files("temper.serve.pages") / "static" / name).read_bytes()


def loose(gateway: Gateway) -> list[dict[str, object]]:
    """The filters that do not protect: those in shadow, and those that let text pass when they fail, with the reason.

    Those of policies that keys name are told with the policy's name.
    """
    found = [("", s) for s in gateway.guard.policy.filters]
    found += [(name, s) for name, guard in sorted(gateway.guards.items()) for s in guard.policy.filters]
    return [
        {"of": of, "name": s.name, "shadow": s.shadow, "open": s.on_error is Action.ALLOW, "reason": s.reason}
        for of, s in found
        if s.shadow or s.on_error is Action.ALLOW
    ]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("temper.serve.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        iso=_iso, clock=_clock, ago=_ago, left=_left, score=_score, percent=_percent, two=_two, found=_found, as_is=escape
    )
    return made


def _shown(value: object) -> object:
    # Markup is ours, or goes back into a form as it came (as_is); other text may hide or reorder what is around it.
    return spelled_out(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _iso(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M} UTC"


def _ago(at: float, now: float) -> str:
    return f"{_span(now - at)} ago" if now - at >= 60 else "just now"


def _left(at: float, now: float) -> str:
    return _span(at - now) if at > now else "none"


def _span(seconds: float) -> str:
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "under 1 min"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def _two(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _found(item: Item) -> Markup:
    """What an item was held for, in one line: each filter and rule once."""
    named = dict.fromkeys(f"{f.get('filter', '')} {f.get('rule', '')}".strip() for f in item.findings if not f.get("shadow"))
    shown = [escape(spelled_out(name)) for name in list(named)[:2]]
    more = f" and {len(named) - 2} more" if len(named) > 2 else ""
    return Markup(", ").join(shown) + more if shown else Markup("–")


def finding_rows(findings: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
    """Findings with every field a table names."""
    blank = {"channel": "", "filter": "", "rule": "", "category": "", "score": None, "shadow": False, "action": "", "why": ""}
    return [{**blank, **f} for f in findings]
