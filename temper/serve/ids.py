"""Names for what the gateway keeps: a kind and 26 characters that sort by the time they were made."""

import os
import time
from base64 import b32hexencode


def new(kind: str) -> str:
    """`kind_` and a ULID: 48 bits of milliseconds, then 80 random bits, so that nobody guesses a neighbour's."""
    moment = (time.time_ns() // 1_000_000 << 6).to_bytes(7)  # ten characters of five bits are 48 bits behind two zeros
    return f"{kind}_{(b32hexencode(moment)[:10] + b32hexencode(os.urandom(10))).decode().lower()}"
