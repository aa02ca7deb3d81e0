"""Identifiers: a prefix that names the kind, and 26 letters that sort by time of creation (a ULID in lower case)."""

import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
RANDOM_BITS = 80
STEP_BITS = 64

_turn = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """Return for example `job_01k…`: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32.

    In one process each is larger than the one before, so rows that one transaction adds list in the order of their making: an
    identifier of the same millisecond goes on from the last by a random step (the ULID specification's monotonic order).
    """
    number = _next()
    digits = []
    for _ in range(26):
        digits.append(ALPHABET[number & 31])
        number >>= 5
    return f"{prefix}_{''.join(reversed(digits))}"


def _next() -> int:
    global _last
    number = time.time_ns() // 1_000_000 << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
    with _turn:
        _last = number if number > _last else _last + 1 + secrets.randbits(STEP_BITS)
        return _last
