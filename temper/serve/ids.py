"""Names for what the gateway keeps: a kind and 26 characters that sort by the time they were made."""

import os
import time
from base64 import b32hexencode


def new(kind: str) -> str:
    """`kind_` and a ULID: 48 bits of milliseconds, then 80 random bits, so that nobody guesses a neighbour's."""
    number = (time.time_ns() // 1_000_000).to_bytes(6) + os.urandom(10)
    return f"{kind}_{b32hexencode(number)[:26].decode().lower()}"
