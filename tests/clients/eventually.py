"""Waiting for a condition, with a limit."""
import time

LIMIT = 30


def eventually(what: str, condition):
    """The first value of `condition` that counts as true."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {LIMIT} s: {what}")
