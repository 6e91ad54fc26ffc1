"""Credentials: what is taken out, what is left, and long ones in a stream."""

import hashlib
import random
import uuid
from dataclasses import replace

import pytest

from temper.errors import PolicyError
from temper.serve.filters.secrets import Secrets, entropy, formats
from temper.serve.guard import redacted
from temper.serve.verdict import Action, Channel, View, canary_turn

CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
MADE = random.Random(7)


def made(n, chars=CHARS):
    return "".join(MADE.choice(chars) for _ in range(n))


KEYS = {
    "aws-key": "AKIA" + made(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    "aws-secret": "AWS_SECRET_ACCESS_KEY=" + made(40),
    "github-token": "ghp_" + made(36),
    "gitlab-token": "glpat-" + made(20),
    "slack-token": "xoxb-123456789012-1234567890123-" + made(24),
    "slack-webhook": "https://hooks.slack.com/services/T" + made(8) + "/B" + made(10) + "/" + made(24),
    "stripe-key": "sk_live_" + made(24),
    "google-key": "AIza" + made(35),
    "anthropic-key": "sk-ant-api03-" + made(93) + "AA",
    "openai-key": "sk-proj-" + made(74) + "T3BlbkFJ" + made(74),
    "huggingface-token": "hf_" + made(34, CHARS[:52]),
    "npm-token": "npm_" + made(36),
    "sendgrid-key": "SG." + made(22) + "." + made(43),
    "telegram-token": "1234567890:AA" + made(33),
    "digitalocean-token": "dop_v1_" + made(64, "0123456789abcdef"),
    "azure-key": "AccountKey=" + made(86) + "==",
    "jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + made(43),
    "password": "postgres://app:" + made(12) + "@db.internal/main",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----\n"
    + "\n".join(made(64) for _ in range(20))
    + "\n-----END RSA PRIVATE KEY-----",
}
ORDINARY = [
    str(uuid.UUID(int=MADE.getrandbits(128))),
    hashlib.sha256(b"x").hexdigest(),
    hashlib.md5(b"x").hexdigest(),
    "data:image/png;base64,iVBORw0KGgo" + made(400) + "==",
    "git checkout 3f2a9c1d0b7e6f5a4c3b2a1908f7e6d5c4b3a291",
    "sk-learn and sk-image are not keys; neither is task-list-of-a-very-long-name-with-many-parts-in-it",
    "https://user:password@example.com and redis://:changeme@host",
    "ghp_" + "x" * 36,
    "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK\n-----END PUBLIC KEY-----",
    "| --- | --- | ---------- | ------- |",
    "eyJub3QiOiJhIGhlYWRlciJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
]


def found(text, *, fresh=0, final=True, channel=Channel.CONTENT, **options):
    return Secrets(**options)(View(channel, text, canary_turn(), fresh, final))


def clean(text):
    return redacted(text, [replace(f, action=Action.REDACT) for f in found(text)])


@pytest.mark.parametrize("kind", KEYS)
def test_a_credential_is_taken_out_whole_and_named(kind):
    text = f'config = "{KEYS[kind]}" # as agreed'
    kept = clean(text)
    assert f"[SECRET:{kind}]" in kept
    secret = KEYS[kind].rpartition("=")[2] if kind == "aws-secret" else KEYS[kind]
    assert secret[-20:-3] not in kept or kind == "password"
    assert kept.endswith('" # as agreed')


def test_of_a_connection_string_only_the_password_goes():
    assert clean(KEYS["password"]) == "postgres://app:[SECRET:password]@db.internal/main"


@pytest.mark.parametrize("text", ORDINARY)
def test_hashes_uuids_pictures_and_placeholders_stay(text):
    assert not found(f"see {text} for more")


def test_hidden_characters_and_full_width_letters_hide_no_key():
    key = KEYS["github-token"]
    assert found("\u200b".join(key))
    assert found("".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in key))
    assert found(KEYS["private-key"].replace("PRIVATE", "PRI\u200bVATE").replace("-----", "－－－－－"))


def test_a_key_in_escaped_arguments_is_found():
    key = KEYS["github-token"].replace("g", r"\u0067", 1)
    assert found(f'{{"token": "{key}"}}', channel=Channel.TOOL_ARGS)


@pytest.mark.parametrize("kind", ["private-key", "openai-key", "anthropic-key", "jwt"])
@pytest.mark.parametrize("step", [7, 40, 128])
def test_a_long_credential_is_one_finding_however_a_stream_is_cut(kind, step):
    text = f"here: {KEYS[kind]} and done"
    start, fresh, whole = 6, 0, set()
    for end in (*range(step, len(text), step), len(text)):
        for f in found(text[:end], fresh=fresh, final=end == len(text)):
            if f.end < end or end == len(text):
                whole.add((f.start, f.end))
            else:
                assert f.start == start  # touches the end, so a release waits for what follows
        fresh = end
    assert whole == {(start, start + len(KEYS[kind]))}


def test_no_more_than_the_reach_is_needed_before_a_credential_is_seen():
    for kind, key in KEYS.items():
        head = f"x {key}"[: Secrets().reach + 3]
        assert found(head + "…" if kind in ("password", "aws-secret") else head, final=False), kind


def test_formats_can_be_skipped_and_a_wrong_name_is_told():
    assert not found(KEYS["aws-key"], skip=("aws-key",))
    assert not found(KEYS["private-key"], skip=("private-key",))
    with pytest.raises(PolicyError, match="aws-key"):
        Secrets(skip=("aws-kee",))


def test_every_example_in_the_table_is_found():
    for format in formats():
        if format.example:
            assert [f.rule for f in found(format.example)] == [format.id]


def test_entropy_is_bits_per_character():
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert entropy("") == 0
