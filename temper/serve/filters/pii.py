"""Personal data that has a form: addresses, phone and card numbers, IBANs, national numbers, each with the check its issuer made.

RE2 finds candidates; python-stdnum and phonenumbers say whether one is real, so that order numbers, S3 buckets and version
strings stay. A value is replaced by `[EMAIL:3f2a]`, the same value by the same placeholder. Leaves out names, addresses and
birthdays, which need a model of language.
"""

import hashlib
import hmac
import importlib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, cast

from temper.errors import PolicyError, nearest
from temper.serve.filters.patterns import Patterns, folded_pattern, tail, well_formed, width
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

SECRET = "TEMPER_SECRET"
"""The environment variable with the gateway's secret, from which the key of the placeholders comes."""
_PROCESS = os.urandom(32)
_CONTEXT = 48
"""Folded characters before a number in which the word is looked for that tells what the number is."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of personal data: `number` is python-stdnum's module, `near` the words without which digits are only digits."""

    id: str
    pattern: str
    number: str = ""
    near: str = ""


_LETTERS = r"\p{Latin}\p{Greek}\p{Cyrillic}"
"""Letters of addresses. Han is left out: Chinese writes an address without a space before it."""
KINDS = (
    Kind("email", rf"[{_LETTERS}0-9._%+-]{{1,48}}@(?:[{_LETTERS}0-9-]{{1,32}}\.){{1,3}}[{_LETTERS}]{{2,12}}"),
    Kind("card", r"\b(?:\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}|\d{4}[ -]?\d{6}[ -]?\d{4,5}|\d{13,19})\b", "luhn"),
    Kind("iban", r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]){11,30}", "iban"),
    Kind("us-ssn", r"\b\d{3}-\d{2}-\d{4}\b", "us.ssn"),
    Kind("uk-nino", r"\b[a-ceghj-prstw-z][a-ceghj-nprstw-z] ?\d{2} ?\d{2} ?\d{2} ?[a-d]\b"),
    Kind("uk-nhs", r"\b\d{3} ?\d{3} ?\d{4}\b", "gb.nhs", r"\bnhs\b"),
    Kind("fr-nir", r"\b[12] ?\d{2} ?\d{2} ?[0-9][0-9ab] ?\d{3} ?\d{3} ?\d{2}\b", "fr.nir"),
    Kind("de-tax", r"\b\d{2} ?\d{3} ?\d{3} ?\d{3}\b", "de.idnr", r"steuer|idnr|tin\b|tax id"),
    Kind("es-dni", r"\b\d{8}-?[a-z]\b", "es.dni", r"\bdni\b|\bnif\b|documento"),
    Kind("es-nie", r"\b[xyz]-?\d{7}-?[a-z]\b", "es.nie"),
    Kind("it-fiscal", r"\b[a-z]{6}\d{2}[a-ehlmprst]\d{2}[a-z]\d{3}[a-z]\b", "it.codicefiscale"),
    Kind("pl-pesel", r"\b\d{11}\b", "pl.pesel", r"pesel"),
    Kind("br-cpf", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", "br.cpf"),
    Kind("in-aadhaar", r"\b[2-9]\d{3} ?\d{4} ?\d{4}\b", "in_.aadhaar", r"aadhaar|aadhar|uidai|आधार"),
    Kind("cn-id", r"\b\d{17}[\dx]\b", "cn.ric"),
    Kind("kr-rrn", r"\b\d{6}-\d{7}\b", "kr.rrn"),
    Kind("phone", r"\+\d(?:[ ().-]{0,2}\d){7,14}\b"),
    Kind("phone", r"(?:\b|\()\d{2,4}\)?[ .-]{1,2}\d{2,4}(?:[ .-]\d{2,4}){1,3}\b"),
    Kind("ip", r"\b\d{1,3}(?:\.\d{1,3}){3}\b"),
    Kind("ip", r"\b[0-9a-f]{1,4}(?::{1,2}[0-9a-f]{1,4}){3,7}\b"),
)
_DEFAULT = tuple(dict.fromkeys(k.id for k in KINDS if k.id != "ip"))
_WORDS = ("email", "ip")
"""Kinds of which a part that begins later is no value of its own."""
_MOST_GROUPS = 4
"""Groups of digits after a number with a country code that may be something else."""
_FILES = frozenset("png jpg jpeg gif svg webp ico js ts css json html htm md txt py yml yaml toml pdf zip exe dll".split())  # noqa: SIM905  a list of words reads better
_NOBODY = re.compile(r"(?:git|no-?reply|do-?not-?reply)@")
_OTHER = re.compile(
    r"\b(?:order|invoice|tracking|ticket|case|sku|isbn|issn|serial|part|build|batch|commit|hash|account id|arn)\b[^.!?]{0,16}$"
)
"""Words before digits that say what they are: no person's number."""
_ISSUERS = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|6(?:011|4[4-9]|5)|35(?:2[89]|[3-8])|3(?:0[0-5]|[689])|62")


@dataclass(frozen=True, slots=True)
class Pii:
    """Findings for personal data of the `kinds` wanted; phone numbers without a country code are read as of `regions`.

    `same` says where equal values get equal placeholders: in one request, or in all requests of one API key. The placeholders
    come from a key made of the environment variable TEMPER_SECRET; without it, from one that lives as long as the process.
    """

    name: ClassVar[str] = "pii"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    default_channels: ClassVar[tuple[Channel, ...]] = tuple(Channel)
    default_action: ClassVar[Action] = Action.REDACT

    kinds: tuple[str, ...] = _DEFAULT
    regions: tuple[str, ...] = ("US",)
    same: Literal["request", "key"] = "request"

    def __post_init__(self) -> None:
        known = {k.id for k in KINDS}
        for given in self.kinds:
            if given not in known:
                raise PolicyError(f"kinds: no kind {given!r}; {nearest(given, known)}")
        if not self.kinds:
            raise PolicyError("kinds: empty, so nothing would be found; leave the filter out")
        for region in self.regions:
            if not re.fullmatch("[A-Z]{2}", region):
                raise PolicyError(f'regions: {region!r}; wanted codes of countries, as in "GB"')

    @property
    def reach(self) -> int:
        return _compiled(self.kinds)[2]

    def __call__(self, view: View, /) -> Sequence[Finding]:
        kinds, patterns, reach = _compiled(self.kinds)
        part = tail(view, reach + _CONTEXT)
        start = max(part.fresh - reach - 1, 0)
        found: list[Finding] = []
        for index, a, b in sorted(patterns.places(part, start), key=lambda p: (p[1], -p[2], p[0])):
            kind = kinds[index]
            length = _length(kind, part.text[a:b], part.text[max(a - _CONTEXT, 0) : a], self.regions)
            stop = b
            while (
                not length and kind.id not in _WORDS and (later := patterns.again(index, well_formed(part.text), a, stop, reach))
            ):
                a, b = later
                length = _length(kind, part.text[a:b], part.text[max(a - _CONTEXT, 0) : a], self.regions)
            first, last = part.span(a, a + length)
            if length and last >= view.fresh and not (found and first < found[-1].end):
                found.append(self._finding(kind, part.text[a : a + length], first, last, view))
        return found

    def canary(self, channel: Channel, /) -> Canary:
        return Canary(EXAMPLES[self.kinds[0]], canary_turn(), tuple((kind, EXAMPLES[kind]) for kind in self.kinds))

    def _finding(self, kind: Kind, value: str, start: int, end: int, view: View) -> Finding:
        scope = view.turn.key if self.same == "key" else view.turn.id
        plain = value if kind.id == "email" else "".join(c for c in value if c.isalnum())
        tag = hmac.new(
            _key(), f"{self.same}\0{scope}\0{kind.id}\0{plain}".encode("utf-8", "replace"), hashlib.sha256
        ).hexdigest()[:4]
        replacement = f"[{kind.id.upper()}:{tag}]"
        return Finding("pii", kind.id, "pii", None, start, end, replacement, why=f"personal data ({kind.id}) whose check holds")


EXAMPLES = {
    "email": "jane.roe@mail.invalid.org",
    "phone": "+44 20 7946 0958",
    "card": "4539 1488 0343 6467",
    "iban": "GB82 WEST 1234 5698 7654 32",
    "us-ssn": "536-90-4399",
    "uk-nino": "AB 12 34 56 C",
    "uk-nhs": "NHS 943 476 5870",
    "fr-nir": "1 80 01 45 000 000 69",
    "de-tax": "Steuer-ID 36 574 261 809",
    "es-dni": "DNI 54362315K",
    "es-nie": "X-2482300W",
    "it-fiscal": "RCCMNL83S18D969H",
    "pl-pesel": "PESEL 44051401359",
    "br-cpf": "390.533.447-05",
    "in-aadhaar": "Aadhaar 2345 6789 0124",
    "cn-id": "360426199101010071",
    "kr-rrn": "971013-9019902",
    "ip": "8.8.8.8",
}
"""One value of each kind that belongs to nobody: the examples of the libraries and of the issuers."""


@cache
def _compiled(wanted: tuple[str, ...]) -> tuple[tuple[Kind, ...], Patterns, int]:
    kinds = tuple(k for k in KINDS if k.id in wanted)
    patterns = [folded_pattern(k.pattern) for k in kinds]
    return kinds, Patterns(patterns), max(width(p)[1] or 0 for p in patterns)


@cache
def _key() -> bytes:
    return hmac.new(os.environ.get(SECRET, "").encode() or _PROCESS, b"pii", hashlib.sha256).digest()


def _length(kind: Kind, text: str, before: str, regions: tuple[str, ...]) -> int:
    """How much of a candidate is what it looks like, 0 if it is something else."""
    if kind.id == "email":
        return 0 if text.rpartition(".")[2] in _FILES or _NOBODY.match(text) else len(text)
    if kind.near and not re.search(kind.near, before):
        return 0
    if kind.id == "ip":
        return len(text) if _is_public(text) else 0
    if kind.id in ("phone", "card") and _OTHER.search(before):
        return 0
    if kind.id == "phone":
        return _phone(text, regions)
    if kind.id == "iban":
        return _iban(text)
    if kind.id == "card":
        digits = re.sub("[ -]", "", text)
        return len(text) if _ISSUERS.match(digits) and len(set(digits)) > 2 and _number("luhn").is_valid(digits) else 0
    return len(text) if not kind.number or _number(kind.number).is_valid(text) else 0


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _iban(text: str) -> int:
    """The characters of an IBAN at the beginning of a text: each country has one length."""
    wanted = _iban_digits(text[:2])
    seen = 0
    for n, c in enumerate(text, 1):
        seen += c != " "
        if seen == wanted:
            return n if _number("iban").is_valid(text[:n]) else 0
    return 0


@cache
def _iban_digits(country: str) -> int:
    from stdnum import numdb

    parts = numdb.get("iban").info(country.upper())
    structure = parts[0][1].get("bban", "") if parts else ""
    return 4 + sum(map(int, re.findall(r"\d+", structure))) if structure else 0


def _phone(text: str, regions: tuple[str, ...]) -> int:
    """Its length where it is a number that exists; without a country code also one that is set as its country sets it."""
    import phonenumbers  # 60 ms, and most gateways see no number for a while

    if text.startswith("+"):
        ends = [m.end() for m in re.finditer(r"\d+", text)]  # what follows a number may be another one
        return next((end for end in ends[: -_MOST_GROUPS - 1 : -1] if _exists(text[:end], None)), 0)
    groups = re.findall(r"\d+", text)
    if all(len(g) <= 3 for g in groups) and "." in text and len(groups) == 4:  # an IP address
        return 0
    for region in regions:
        number = _exists(text, region)
        if number and groups == re.findall(r"\d+", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)):
            return len(text)
    return 0


def _exists(text: str, region: str | None) -> "PhoneNumber | None":
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


class _Number(Protocol):
    def is_valid(self, number: str) -> bool: ...


@cache
def _number(module: str) -> _Number:
    return cast(_Number, importlib.import_module(f"stdnum.{module}"))
