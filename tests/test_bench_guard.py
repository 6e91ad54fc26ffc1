"""The probe that says what leaks: it finds the phrase however it comes, in whatever place, and nothing where there is none."""

import importlib
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The modules of `bench/guard_peers`, whose names are short: they are gone from `sys.modules` afterwards."""
    monkeypatch.syspath_prepend(str(BENCH / "guard_peers"))
    for name in ("cases", "wire", "probes", "upstream", "load", "peers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("probes")


def answered(peers: ModuleType, name: str, stream: bool) -> object:
    """What a client gets that talks to the upstream itself."""
    upstream = importlib.import_module("upstream")
    case = peers.CASES[name]
    head = "".join(f"{k}: {v}\r\n" for k, v in case.headers.items())
    if case.error >= 400:
        body = upstream.refused(case).encode()
    else:
        body = b"".join(upstream.events(name, True)) if stream else upstream.plain(name)
    return peers.wire.Answer(case.error or 200, f"HTTP/1.1 200 OK\r\n{head}\r\n".encode(), body, None, False, False)


def test_every_bad_case_is_a_leak_where_nobody_guards_and_no_clean_one_is(peers: ModuleType) -> None:
    for name, case in peers.CASES.items():
        for stream in case.forms():
            if not case.asks:
                assert bool(peers.leaks(answered(peers, name, stream))) is not case.clean, (name, stream)


def test_clean_answers_are_whole_in_both_forms_and_a_cut_one_is_not(peers: ModuleType) -> None:
    for name in ("clean", "clean_reasoning", "clean_tool"):
        case = peers.CASES[name]
        for stream in (False, True):
            said, finish = peers.delivered(answered(peers, name, stream))
            assert peers.whole(case, said)
            assert finish in ("stop", "tool_calls")
            assert not peers.whole(case, {key: text[:-1] for key, text in said.items()})


def test_a_request_carries_the_case_to_the_upstream_in_every_shape(peers: ModuleType) -> None:
    cases = importlib.import_module("cases")
    for name, case in cases.CASES.items():
        sent = json.dumps(cases.body_of(case, True, "m")).encode()
        assert cases.named(sent) == name
        assert cases.holds(json.dumps(json.loads(sent), ensure_ascii=False)) is case.asks


def test_the_rules_of_every_peer_are_the_same(peers: ModuleType, tmp_path: Path) -> None:
    from temper.serve.policy import parse_policy

    of, cases = importlib.import_module("peers"), importlib.import_module("cases")
    (setting,) = parse_policy(of.ours()).filters
    ours = setting.filter.rules  # type: ignore[attr-defined]
    assert {rule.pattern for rule in ours if rule.pattern} == set(cases.REGEXES)
    assert {phrase for rule in ours for phrase in rule.phrases} == set(cases.PHRASES)
    rails = of.rails("http://up")["rails"]["config"]["regex_detection"]
    assert rails["input"]["patterns"] == rails["output"]["patterns"] == [*cases.REGEXES, *cases.PHRASES]
    words = of.content_filter()[0]["litellm_params"]
    assert len(words["patterns"]) + len(words["blocked_words"]) == len(cases.REGEXES) + len(cases.PHRASES)


def test_a_stream_of_the_load_is_79_events(peers: ModuleType) -> None:
    upstream = importlib.import_module("upstream")
    deltas = list(upstream.deltas(peers.CASES["clean"].message, 16))
    assert len(deltas) + 2 == 78  # the finish and [DONE]; with the usage chunk it is 79
    assert len(upstream.events("clean", True)) == 79


def test_the_load_test_sees_every_phrase_that_it_plants(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer as its upstream sends it, with no gateway before it, is always a leak; a calm one never is."""
    monkeypatch.syspath_prepend(str(BENCH.parent / "tools"))
    load = importlib.import_module("load_serve")
    for seed in range(200):
        for kind in ("planted", "planted_stream", "plain", "stream"):
            chance, seen = random.Random(seed), load.Seen()
            message = load.message_of(kind, chance)
            frames = [load._frame([{"index": 0, "delta": d, "finish_reason": None}]) for d in load.deltas(message, chance)]
            whole = load._frame([{"index": 0, "message": message, "finish_reason": "stop"}])
            body = "".join(f"data: {frame}\n\n" for frame in frames) if kind.endswith("stream") else whole
            load._note(seen, kind, peers.wire.Answer(200, b"HTTP/1.1 200 OK\r\n\r\n", body.encode(), None, False, False))
            assert bool(seen.leaks) is kind.startswith("planted"), (seed, message)


def test_memory_that_grows_is_told_from_memory_that_does_not(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent / "tools"))
    load = importlib.import_module("load_serve")
    steady = [100.0 + i % 3 for i in range(300)]
    assert load.growth(steady) <= load.FLAT < load.growth([100.0 + i for i in range(300)])


def test_the_knee_is_where_more_clients_bring_no_more(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent / "tools"))
    load = importlib.import_module("load_serve")

    def steps(*found: tuple[float, float, int]) -> list[dict[str, float]]:
        return [{"rate": rate, "p99_ms": p99, "errors": errors} for rate, p99, errors in found]

    assert load.ends(steps((100, 10, 0))) == ""
    assert load.ends(steps((100, 10, 0), (190, 12, 0))) == ""
    assert load.ends(steps((100, 10, 0), (190, 12, 0), (195, 13, 0))) == "the rate no longer grows"
    assert load.ends(steps((100, 10, 0), (190, 20, 0))) == "p99 doubled"
    assert load.ends(steps((100, 10, 0), (190, 12, 1))) == "requests failed"
    assert load.ends(steps((0, 10, 3))) == "requests failed"
