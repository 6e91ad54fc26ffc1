"""The tables of the gateway's database, SQLite or PostgreSQL; `migrations/` makes them. Times are seconds since the epoch.

No table holds text of a request or an answer in the clear: `vault` has it encrypted, with an expiry; all others hold ids, hashes,
offsets and counts.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_ID = String(48)

keys = Table(
    "keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(16), nullable=False),  # what a person recognises the key by
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),  # JSON list: chat, models, moderations, feedback, holds, metrics, admin
    Column("policy", String(200), nullable=False, default=""),  # name of a policy, "" for the gateway's own
    Column("models", Text, nullable=False, default="[]"),
    Column("limits", Text, nullable=False, default="{}"),
    Column("disclosure", Text, nullable=False, default="{}"),
    Column("made_at", Float, nullable=False),
    Column("made_by", String(200), nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

people = Table(
    "people",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("argon2", String(200), nullable=False),
    Column("role", String(16), nullable=False),  # reviewer, admin
    Column("made_at", Float, nullable=False),
    Column("disabled_at", Float),
    Column("session", Integer, nullable=False, default=0),  # raised by a sign-out everywhere: older cookies are void
)

responses = Table(
    "responses",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("key_id", _ID, nullable=False, index=True),
    Column("route", String(32), nullable=False),
    Column("model", String(200), nullable=False),
    Column("policy", String(64), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("finish", String(32), nullable=False),
    Column("action", String(16), nullable=False),
    Column("findings", Text, nullable=False),  # JSON: filter, rule, category, channel, start, end, score, shadow; never text
    Column("scanned", Integer, nullable=False),  # characters read by filters, and characters delivered: must agree
    Column("released", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("first_s", Float),
    Column("language", String(16), nullable=False, default=""),
    Column("vault_id", _ID),  # where the text is kept, if it is
)

holds = Table(
    "holds",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("response_id", _ID, nullable=False, index=True),
    Column("key_id", _ID, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("kind", String(16), nullable=False),  # output, input, agentic, appeal
    Column("category", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),  # waiting, released, edited, refused, expired
    Column("policy", String(64), nullable=False),
    Column("findings", Text, nullable=False),
    Column("vault_id", _ID, nullable=False),  # request, answer, reasoning
    Column("outcome_vault_id", _ID),  # the edited answer
    Column("wanted", Integer, nullable=False, default=1),  # how many reviewers must agree
    Column("lease_by", _ID),
    Column("lease_until", Float),
    Column("decided_at", Float),
    Column("message", Text, nullable=False, default=""),  # what the client is told with a refusal
)

ratings = Table(
    "ratings",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("hold_id", _ID, ForeignKey("holds.id"), nullable=False, index=True),
    Column("person_id", _ID, nullable=False),
    Column("at", Float, nullable=False),
    Column("verdict", String(16), nullable=False),  # release, edit, refuse
    Column("label", String(16), nullable=False, default=""),  # safe, unsafe
    Column("category", String(64), nullable=False, default=""),
    Column("note", Text, nullable=False, default=""),
    Column("second", Boolean, nullable=False, default=False),  # a blind second rating; never decides
    Column("edit_vault_id", _ID),
    UniqueConstraint("hold_id", "person_id"),
)

vault = Table(
    "vault",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("purpose", String(16), nullable=False),  # hold, sample, feedback, export
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("box", LargeBinary, nullable=False),  # AES-256-GCM of zstd of JSON (vault.py)
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("response_id", _ID, nullable=False, index=True),
    Column("key_id", _ID, nullable=False),
    Column("at", Float, nullable=False),
    Column("rating", Integer),  # -1, 1
    Column("label", String(64), nullable=False, default=""),
    Column("vault_id", _ID),  # comment and expected answer
)

journal = Table(
    "journal",
    metadata,
    # One chain a worker process ("lane"), so that workers share no lock; checkpoints tie the lanes together.
    Column("lane", _ID, primary_key=True),
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("subject", _ID, nullable=False, index=True),
    Column("body", Text, nullable=False),  # canonical JSON
    Column("mac", String(64), nullable=False),  # HMAC-SHA256 over the previous mac and this row
)

policies = Table(
    "policies",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(200), nullable=False, index=True),
    Column("version", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("made_by", String(200), nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("active", Boolean, nullable=False, default=False),
)

counters = Table(
    "counters",
    metadata,
    # What dashboards and later drift tests read: a day and hour, a key, what is counted, and its sums.
    Column("hour", Integer, primary_key=True),  # hours since the epoch
    Column("key_id", _ID, primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("name", String(64), primary_key=True),  # requests, blocked, held, redacted, refused, language-switch, score:harm ...
    Column("n", BigInteger, nullable=False, default=0),
    Column("total", Float, nullable=False, default=0.0),
    Column("squares", Float, nullable=False, default=0.0),
)

spent = Table(
    "spent",
    metadata,
    Column("key_id", _ID, primary_key=True),
    Column("window", String(24), primary_key=True),  # "day:N", or "rate" (limits.py)
    Column("requests", BigInteger, nullable=False, default=0),
    Column("tokens", BigInteger, nullable=False, default=0),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("due_at", Float, nullable=False),
    Column("lease_by", _ID),
    Column("lease_until", Float),
    Column("last_at", Float),
    Column("last_result", Text, nullable=False, default=""),
)

hooks = Table(
    "hooks",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),  # encrypted like the vault
    Column("events", Text, nullable=False),  # JSON list: hold.made, hold.decided, alert, audit.finished
    Column("made_at", Float, nullable=False),
    Column("disabled_at", Float),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("hook_id", _ID, ForeignKey("hooks.id"), nullable=False),
    Column("event", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("due_at", Float, nullable=False, index=True),
    Column("tries", Integer, nullable=False, default=0),
    Column("done_at", Float),
    Column("last_error", Text, nullable=False, default=""),
)

audits = Table(
    "audits",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("policy", String(64), nullable=False),
    Column("passed", Integer, nullable=False),  # responses that passed in the window
    Column("judged", Integer, nullable=False),
    Column("missed", Integer, nullable=False),
    Column("low", Float),
    Column("high", Float),
    Column("report", Text, nullable=False),  # JSON: by filter and category, with response ids
)

Index("ix_deliveries_open", deliveries.c.done_at, deliveries.c.due_at)
