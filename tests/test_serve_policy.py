"""The policy file: what it builds on, what it means, and what it says when it is wrong."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from temper import registry
from temper.errors import PolicyError, UnknownName
from temper.serve import policy
from temper.serve.guard import Guard
from temper.serve.policy import parse_policy, read_policy
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn


@dataclass(frozen=True, slots=True)
class Words:
    """Fires on one word: the smallest filter there is."""

    name: ClassVar[str] = "words"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    default_channels: ClassVar[tuple[Channel, ...]] = (Channel.INPUT, Channel.CONTENT)
    default_action: ClassVar[Action] = Action.REVIEW

    word: str = "planted"
    rules: tuple[dict[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.word == "refused":
            raise PolicyError("word = 'refused'; wanted another")

    @property
    def reach(self) -> int:
        return len(self.word)

    def __call__(self, view: View, /) -> list[Finding]:
        if self.word == "broken":
            raise RuntimeError("secret text")
        at = view.text.find(self.word)
        return [Finding(self.name, start=at, end=at + len(self.word))] if at >= 0 else []

    def canary(self, channel: Channel, /) -> Canary:
        return Canary(self.word, canary_turn())


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two profiles of our own, one on top of the other, and no filter but `words` and `rules`."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "base.toml").write_text(
        'name = "base"\n[filters.words]\nword = "one"\n[limits]\nmax_tokens = 7\n[[rules]]\nid = "a"\n'
    )
    (folder / "upper.toml").write_text('profile = "base"\n[filters.words]\naction = "block"\n[[rules]]\nid = "b"\n')
    (folder / "loop.toml").write_text('profile = "pool"\n')
    (folder / "pool.toml").write_text('profile = "loop"\n')
    monkeypatch.setattr(policy, "PROFILES", folder)
    known = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, spec: Words if spec in ("words", "rules") else known(kind, spec))
    return folder


def test_a_policy_overrides_its_profile_key_by_key_and_rules_add_up() -> None:
    made = parse_policy('profile = "upper"\n[limits]\nunder_way = 3\n[[rules]]\nid = "c"\n')
    words, rules = made.filters
    assert (words.filter.word, words.action) == ("one", Action.BLOCK)
    assert [r["id"] for r in rules.filter.rules] == ["a", "b", "c"]
    assert (made.limits.max_tokens, made.limits.under_way) == (7, 3)


def test_a_list_that_is_no_rule_replaces_the_profiles() -> None:
    made = parse_policy('profile = "base"\n[filters.words]\nchannels = ["reasoning"]\n[review]\ntwo_person = ["a"]\n')
    assert made.filters[0].channels == (Channel.REASONING,)
    assert made.review.two_person == ("a",)


def test_a_filter_of_the_profile_is_switched_off_by_enabled() -> None:
    assert [s.name for s in parse_policy('profile = "base"\n[filters.words]\nenabled = false\n').filters] == ["rules"]


def test_two_filters_of_one_kind_have_settings_of_their_own() -> None:
    made = parse_policy('[filters.a]\nkind = "words"\nword = "x"\n[filters.b]\nkind = "words"\nword = "y"\naction = "block"\n')
    assert [(s.name, s.filter.word, s.action) for s in made.filters] == [("a", "x", Action.REVIEW), ("b", "y", Action.BLOCK)]


def test_what_is_not_said_is_the_filters_own() -> None:
    (setting,) = parse_policy("[filters.words]\n").filters
    assert (setting.channels, setting.action, setting.on_error) == (Words.default_channels, Action.REVIEW, Action.BLOCK)


def test_the_version_is_of_what_holds_and_not_of_how_it_is_written() -> None:
    a = parse_policy('thinks = "yes"\n[limits]\nmax_tokens = 5\nunder_way = 2\n[filters.words]\n')
    b = parse_policy('# a comment\nthinks = "yes"\n[filters.words]\n[limits]\nunder_way   = 2\nmax_tokens = 5\n', name="other")
    assert a.version == b.version
    assert re.fullmatch(r"[0-9a-f]{12}", a.version)


def test_the_version_changes_with_any_setting_and_with_the_profile_below(shipped: Path) -> None:
    text = 'profile = "base"\n'
    first = parse_policy(text).version
    assert parse_policy(text + "[limits]\nmax_tokens = 8\n").version != first
    (shipped / "base.toml").write_text('name = "base"\n[filters.words]\nword = "two"\n')
    assert parse_policy(text).version != first


def test_a_filter_that_fails_counts_as_its_on_error_and_its_words_are_not_told() -> None:
    made = parse_policy('[filters.words]\nword = "broken"\non_error = "review"\n')
    verdict = Guard(made).scan(View(Channel.CONTENT, "text", canary_turn()))
    assert (verdict.action, verdict.errors) == (Action.REVIEW, ("words",))
    assert "secret text" not in verdict.findings[0].why


def test_shadow_and_reach_hold_back_nothing() -> None:
    assert Guard(parse_policy("[filters.words]\nshadow = true\n")).reach(Channel.CONTENT) == 0
    assert Guard(parse_policy("[filters.words]\n")).reach(Channel.CONTENT) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thinks = [", "not TOML"),
        ('thinks = "maybe"', "thinks"),
        ("filtres = 1", "unknown key 'filtres'; did you mean 'filters'?"),
        ('profile = "bsae"', "did you mean 'base'?"),
        ('profile = "loop"', "leads back to itself"),
        ("[limits]\nmax_token = 1", "did you mean 'max_tokens'?"),
        ('[limits]\nmax_tokens = "many"', "max_tokens = 'many'"),
        ("[limits]\nmax_tokens = true", "wanted a number"),
        ('[lint]\nmode = "shout"', "mode = 'shout'"),
        ('[agentic]\ncleared = "model"', "wanted a list"),
        ("[channels.contents]", "did you mean 'content'?"),
        ('[channels.content]\npolicy = "show"', "policy = 'show'"),
        ('[channels.content]\nmode = "windows"', "mode = 'windows'"),
        ('[channels.input]\npolicy = "hide"', 'wanted "filter"'),
        ("channels = 3", "wanted tables"),
        ("[filters.wrods]", "no filter is called 'wrods'"),
        ('[filters.x]\nkind = "no-such.py:F"', "there is no file"),
        ('[filters.words]\nwrod = "x"', "did you mean 'word'?"),
        ("[filters.words]\nword = 3", "word = 3"),
        ('[filters.words]\naction = "blok"', "did you mean 'block'?"),
        ('[filters.words]\nchannels = ["contents"]', "did you mean 'content'?"),
        ('[filters.words]\non_error = "ignore"', "on_error = 'ignore'"),
        ('[filters.words]\non_error = "allow"', "give a `reason`"),
        ('[filters.words]\non_error = "allow"\nreason = "  "', "give a `reason`"),
        ("[rules]\nid = 3", "[[rules]]"),
        ("filters = 3", "wanted tables"),
        ("[filters]\nwords = 3", "wanted tables"),
        ('profile = ["base"]', "wanted one of"),
        ("name = 3", "name = 3"),
        ("[filters.words]\nchannels = 3", "wanted a list"),
        ('[filters.words]\nchannels = "content"', "wanted a list"),
        ('[filters.words]\nshadow = "perhaps"', "shadow = 'perhaps'"),
        ("[filters.words]\nreason = 3", "reason = 3"),
        ("[filters.words]\nkind = 3", "kind = 3"),
        ('[filters.words]\nword = "refused"', "filters.words: word = 'refused'"),
        ('[lint]\nchecks = ["vague"]', "checks"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy(text, where="my.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("my.toml")


def test_a_reason_allows_what_fails_to_pass() -> None:
    (setting,) = parse_policy('[filters.words]\non_error = "allow"\nreason = "a trial"\n').filters
    assert (setting.on_error, setting.reason) == (Action.ALLOW, "a trial")


def test_a_policy_is_read_by_name_or_from_a_file(tmp_path: Path) -> None:
    assert read_policy("upper").name == "upper"
    file = tmp_path / "mine.toml"
    file.write_text('profile = "upper"\nname = "mine"\n')
    assert read_policy(file).name == "mine"
    with pytest.raises(UnknownName, match="did you mean 'upper'"):
        read_policy("uper")
    with pytest.raises(PolicyError, match="No such file"):
        read_policy(tmp_path / "none.toml")


def test_a_schema_file_that_is_wrong_is_an_error_of_the_policy(tmp_path):
    file = tmp_path / "answer.json"
    text = f'[output]\nformat = "schema"\nschema = "{file}"\n'
    with pytest.raises(PolicyError, match=r"output: schema = .*answer\.json"):
        parse_policy(text)
    file.write_text('{"type": "object"}')
    assert parse_policy(text).output.format == "schema"
