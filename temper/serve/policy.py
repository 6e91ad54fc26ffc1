"""What the gateway enforces, as a file: profile, channels, filters, rules, and the sections of `policy.toml`.

A policy starts from a shipped profile (`profile = "chat"`), whose tables it overrides key by key; `[[rules]]` add up. Its
`version` is a hash of what came out, so that every decision on record names the exact policy it was made under.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from temper import registry
from temper.config import build, known_keys
from temper.errors import DataError, PolicyError, UnknownName, nearest
from temper.files import digest
from temper.serve.verdict import ACTIONS, Action, Channel, Filter, Mode

PROFILES = Path(__file__).parent / "policies"
DEFAULT = "chat"
Treat = Literal["filter", "hide", "summarise", "drop"]
Check = Literal["ambiguous", "few-shot", "no-language", "no-format", "system-prompt", "temperature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPolicy:
    """How one channel is treated. `filter` releases what passed; `hide` scans and withholds it; `summarise` gives a sentence in
    its place; `drop` neither scans for the client nor releases (it is still scanned, for the record). Input only knows `filter`.
    """

    policy: Treat = "filter"
    mode: Mode = "window"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """Tells people that they talk to a machine: a response header, an object in the body, the first message of a conversation."""

    header: bool = True
    object: bool = True
    first_message: str = ""
    text: str = "Answers come from an AI system and may be wrong."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tongue:
    """The target language: a code as in "en", or "prompt" for that of the last user message."""

    target: str = "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The format of answers. `schema` is a file with a JSON schema that holds where a request brings none; `retries` is how often
    an answer that does not fit is asked again, with the violations told.
    """

    format: Literal["free", "json", "schema"] = "free"
    schema: str = ""
    retries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lint:
    """What is done about prompts that R1's authors advise against: nothing, a warning, a rewriting, a refusal. A request may ask
    for a rewriting unless `mode` is "off". With `reasoning_model` the checks for R1-type models run too (`lint.py`).
    """

    mode: Literal["off", "warn", "rewrite", "refuse"] = "warn"
    checks: tuple[Check, ...] = ("ambiguous", "few-shot", "no-language", "no-format")
    reasoning_model: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Agentic:
    """Whether a model may be given tools. Only models in `cleared` may; others get `action`, with the reason."""

    action: Literal["allow", "review", "block"] = "block"
    cleared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The hold queue. A request waits `wait_s` for a verdict before it gets its ticket; an item nobody decided in `expire_s` is
    refused, never released. Categories in `two_person` need two reviewers; a share `second` is rated again, blind.
    """

    wait_s: float = 0.0
    lease_s: float = 300.0
    expire_s: float = 86400.0
    two_person: tuple[str, ...] = ()
    second: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one key, one request and one worker may use; 0 is no limit. A key's own limits override these."""

    request_bytes: int = 1_048_576
    requests_per_minute: int = 600
    tokens_per_day: int = 0
    max_tokens: int = 4096
    under_way: int = 256
    deadline_s: float = 300.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    pending_chars: int = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The scheduled audit: which share of passed traffic is kept (encrypted, `keep_s` long) to be judged again, and by what."""

    share: float = 0.01
    keep_s: float = 172_800.0
    every_s: float = 86_400.0
    filters: tuple[str, ...] = ("harm",)
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One filter as the policy wants it. `action` stands for findings that name none of their own."""

    name: str
    kind: str
    filter: Filter
    channels: tuple[Channel, ...]
    action: Action
    on_error: Action = Action.BLOCK
    reason: str = ""
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything the gateway enforces. `table` is the resolved source, from which `version` is computed."""

    name: str
    version: str
    filters: tuple[Setting, ...]
    channels: Mapping[Channel, ChannelPolicy]
    thinks: Literal["auto", "yes", "no"] = "auto"
    logprobs: bool = False
    disclosure: Disclosure = field(default_factory=Disclosure)
    language: Tongue = field(default_factory=Tongue)
    output: Output = field(default_factory=Output)
    lint: Lint = field(default_factory=Lint)
    agentic: Agentic = field(default_factory=Agentic)
    review: Review = field(default_factory=Review)
    limits: Limits = field(default_factory=Limits)
    audit: Sampled = field(default_factory=Sampled)
    table: Mapping[str, Any] = field(default_factory=dict)


SECTIONS: Mapping[str, type[Any]] = {
    "disclosure": Disclosure,
    "language": Tongue,
    "output": Output,
    "lint": Lint,
    "agentic": Agentic,
    "review": Review,
    "limits": Limits,
    "audit": Sampled,
}
_PLAIN = ("name", "thinks", "logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """The keys that every filter's table may have; the others are the filter's own."""

    kind: str = ""
    channels: tuple[str, ...] | None = None
    action: str = ""
    on_error: str = "block"
    reason: str = ""
    shadow: bool = False
    enabled: bool = True


_COMMON = tuple(f.name for f in fields(_Common))


def shipped() -> dict[str, Path]:
    """The profiles and domain packs that come with temper, by name."""
    return {p.stem: p for p in sorted(PROFILES.glob("*.toml"))}


def read_policy(given: str | Path = DEFAULT) -> Policy:
    """A policy by the name of a profile, or from a file. Raises `PolicyError`, `UnknownName`."""
    path = Path(given)
    if path.suffix != ".toml":
        if str(given) not in shipped():
            raise UnknownName(f"no policy is called {str(given)!r}; {nearest(str(given), shipped())}; or give a .toml file")
        path = shipped()[str(given)]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"policy {path}: {error.strerror}; wanted a .toml file or one of {', '.join(shipped())}") from None
    return parse_policy(text, where=str(path), name=path.stem)


def parse_policy(text: str, *, where: str = "policy", name: str = "policy") -> Policy:
    """A policy from TOML. Raises `PolicyError` where a key, a rule or a filter is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{where}: not TOML: {error}") from None
    table = _resolved(table, where, ())
    known_keys(table, (*_PLAIN, *SECTIONS, "channels", "filters", "rules"), where, PolicyError)
    plain = build(_Plain, {k: table[k] for k in _PLAIN if k in table}, where, PolicyError)
    sections = {key: build(kind, table.get(key, {}), f"{where}: {key}", PolicyError) for key, kind in SECTIONS.items()}
    if sections["output"].format == "schema":  # a wrong file is an error of the policy, not of the first request
        from temper.serve.filters.format import target

        try:
            target(None, sections["output"])
        except DataError as error:
            raise PolicyError(f"{where}: {error}") from None
    return Policy(
        name=plain.name or name,
        version=digest(table)[:12],
        filters=_filters(table, where),
        channels=_channels(table.get("channels", {}), where),
        thinks=plain.thinks,
        logprobs=plain.logprobs,
        table=table,
        **sections,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    name: str = ""
    thinks: Literal["auto", "yes", "no"] = "auto"
    logprobs: bool = False


def _resolved(table: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The table on top of its profile's."""
    profile = table.get("profile", "")
    own = {k: v for k, v in table.items() if k != "profile"}
    if not profile:
        return own
    if not isinstance(profile, str):
        raise PolicyError(f"{where}: profile = {profile!r}; wanted one of {', '.join(shipped())}")
    if profile in seen:
        raise PolicyError(f"{where}: profile = {profile!r} leads back to itself ({' -> '.join((*seen, profile))})")
    if profile not in shipped():
        raise PolicyError(f"{where}: profile = {profile!r} is none; {nearest(str(profile), shipped())}")
    below = tomllib.loads(shipped()[profile].read_text(encoding="utf-8"))
    below = _resolved(below, f"{where}: profile {profile}", (*seen, profile))
    # a policy on top of a profile is another policy: it is not called what the profile is called
    return _over({k: v for k, v in below.items() if k != "name"}, own)


def _over(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in own.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _over(old, value)
        elif key == "rules" and isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
        else:
            merged[key] = value
    return merged


def _channels(table: Any, where: str) -> dict[Channel, ChannelPolicy]:
    where = f"{where}: channels"
    if not isinstance(table, Mapping):
        raise PolicyError(f"{where}: wanted tables, as in [channels.reasoning]")
    known_keys(table, [str(c) for c in Channel], where, PolicyError)
    made = {c: build(ChannelPolicy, table.get(str(c), {}), f"{where}.{c}", PolicyError) for c in Channel}
    if made[Channel.INPUT].policy != "filter":
        raise PolicyError(f'{where}.input: policy = {made[Channel.INPUT].policy!r}; wanted "filter": input is read by the model')
    return made


def _filters(table: Mapping[str, Any], where: str) -> tuple[Setting, ...]:
    given = table.get("filters", {})
    if not isinstance(given, Mapping) or not all(isinstance(row, Mapping) for row in given.values()):
        raise PolicyError(f"{where}: filters: wanted tables, as in [filters.harm]")
    rows = dict(given)
    if "rules" in table:
        if not isinstance(table["rules"], list):
            raise PolicyError(f"{where}: rules are written as [[rules]], once for each")
        rows["rules"] = {**rows.get("rules", {}), "rules": table["rules"]}
    made = (_setting(name, row, f"{where}: filters.{name}") for name, row in rows.items())
    return tuple(setting for setting in made if setting is not None)


def _setting(name: str, row: Mapping[str, Any], where: str) -> Setting | None:
    """One filter, None for one that is switched off."""
    common = build(_Common, {k: v for k, v in row.items() if k in _COMMON}, where, PolicyError)
    if not common.enabled:
        return None
    kind = common.kind or name
    try:
        found = registry.find("filter", kind)
    except UnknownName as error:
        raise PolicyError(f"{where}: {error}") from None
    try:
        made: Filter = build(found, {k: v for k, v in row.items() if k not in _COMMON}, where, PolicyError)
    except PolicyError as error:
        # what a filter says of its own settings does not know where they stand
        raise PolicyError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    on_error = _action(common.on_error, f"{where}: on_error", ("block", "review", "allow"))
    if on_error is Action.ALLOW and not common.reason.strip():
        raise PolicyError(f'{where}: on_error = "allow" lets text pass unread when the filter fails; give a `reason`')
    known = [str(c) for c in Channel]
    for channel in common.channels or ():
        if channel not in known:
            raise PolicyError(f"{where}: channels: {channel!r}; {nearest(channel, known)}")
    return Setting(
        name=name,
        kind=kind,
        filter=made,
        channels=made.default_channels if common.channels is None else tuple(Channel(c) for c in common.channels),
        action=_action(common.action, f"{where}: action", tuple(ACTIONS)) if common.action else made.default_action,
        on_error=on_error,
        reason=common.reason,
        shadow=common.shadow,
    )


def _action(given: object, where: str, known: tuple[str, ...]) -> Action:
    if given not in known:
        raise PolicyError(f"{where} = {given!r}; {nearest(str(given), known)}")
    return ACTIONS[str(given)]
