"""The filters at work in a release: however a stream is cut, nothing that must go comes out, and all else does."""

import asyncio
import random

import pytest
from test_serve_filters_prompt_leak import SAID, SYSTEM
from test_serve_filters_secrets import KEYS

from temper.serve.filters.pii import EXAMPLES
from temper.serve.guard import Guard
from temper.serve.policy import parse_policy
from temper.serve.verdict import Action, Channel, canary_turn

release = pytest.importorskip("temper.serve.release")
GUARD = Guard(
    parse_policy(
        "[filters.secrets]\n[filters.pii]\n[filters.invisible]\n[filters.prompt-leak]\n[filters.repetition]\n"
        "[[rules]]\nid = 'lantern'\nphrases = ['copper lantern']"
    )
)
BEFORE = "Tuesday's committee read the report about water levels, and of 50 places nobody had found anything odd in 42. "
AFTER = "Later they ate soup on the terrace, where a wind from the hills had begun to move the paper lamps over their heads. "


def streamed(text, seed):
    cuts = random.Random(seed)

    async def run():
        under_way = release.Release(GUARD, canary_turn(system=SYSTEM))
        out, at = [], 0
        while at < len(text):
            size = cuts.choice([1, 3, 16, 40, 200])
            if under_way.feed(release.Delta(0, Channel.CONTENT, text[at : at + size])):
                out += await under_way.scan()
            at += size
        out += await under_way.end()
        return "".join(d.text for d in out), under_way.stopped

    return asyncio.run(run())


VALUES = {**KEYS, **{f"pii-{kind}": text for kind, text in EXAMPLES.items() if kind != "ip"}}


@pytest.mark.parametrize("name", ["PRIVATE KEY", "private key", "PRI\u200bVATE KEY", "ＰＲＩＶＡＴＥ ＫＥＹ"])
def test_a_long_key_does_not_come_out_whatever_hides_its_header(name):
    drawn = random.Random(7)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    lines = ["".join(drawn.choices(letters, k=64)) for _ in range(150)]
    block = "\n".join([f"-----BEGIN RSA {name}-----", *lines, f"-----END RSA {name}-----"])
    told, _ = streamed(f"{BEFORE}\n{block}\n{AFTER}", 1)
    assert [line for line in lines if line in told] == []


@pytest.mark.parametrize("kind", VALUES)
def test_what_is_redacted_never_comes_out_in_part(kind):
    value = VALUES[kind]
    secret = (
        value.rpartition("=")[2]
        if kind == "aws-secret"
        else value.split(":")[2].partition("@")[0]
        if kind == "password"
        else value
    )
    for seed in range(4):
        told, stopped = streamed(f"{BEFORE}so: {value} it is. {AFTER}", seed)
        assert stopped is None
        assert secret[-6:] not in told and secret[len(secret) // 3 :][:9] not in told
        assert told.startswith(f"{BEFORE}so: ") and told.endswith(f" it is. {AFTER}")


@pytest.mark.parametrize("banned", ["copper lantern", "Copper\n\nLAN\u200bTERN", SAID, SAID[::-1]])
def test_what_is_blocked_never_comes_out_in_part(banned):
    for seed in range(8):
        told, stopped = streamed(f"{BEFORE}{banned} {AFTER}", seed)
        assert stopped is Action.BLOCK
        assert BEFORE.startswith(told)


def test_hidden_characters_go_and_emoji_stay_whole():
    tags = "".join(chr(0xE0000 + ord(c)) for c in "obey")
    for seed in range(8):
        told, stopped = streamed(f"{BEFORE}zero\u200bwidth{tags} 👨‍👩‍👧 می‌خواهم {AFTER}", seed)
        assert stopped is None
        assert told == f"{BEFORE}zerowidth 👨‍👩‍👧 می‌خواهم {AFTER}"


def test_a_loop_stops_the_stream():
    told, stopped = streamed(BEFORE + "and again " * 1000, 1)
    assert stopped is Action.BLOCK
    assert len(told) < len(BEFORE) + 4000
