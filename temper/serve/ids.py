"""Names for what the gateway keeps: a kind and 26 characters that sort by the time they were made."""

import secrets
import time

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new(kind: str) -> str:
    """`kind_` and a ULID: 48 bits of milliseconds, then 80 random bits, so that nobody guesses a neighbour's."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{kind}_{''.join(_LETTERS[number >> shift & 31] for shift in range(125, -1, -5))}"
