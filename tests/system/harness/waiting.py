"""Waiting for a condition instead of sleeping."""

import time


def wait_until(condition, timeout, what, interval=0.02):
    """Calls `condition` until it answers something true and returns that.

    `timeout` is in seconds. When it passes, fails with `what` was awaited, the last answer and the last exception;
    an exception of `condition` counts as "not yet", since servers refuse connections while they start.
    """
    end = time.monotonic() + timeout
    answer = error = None
    while True:
        try:
            answer, error = condition(), None
            if answer:
                return answer
        except AssertionError:
            raise
        except Exception as problem:  # noqa: BLE001 any refusal means "not yet"
            error = problem
        if time.monotonic() > end:
            detail = f"; last error: {error!r}" if error else f"; last answer: {answer!r}"
            raise AssertionError(f"waited {timeout:g} s in vain for {what}{detail}")
        time.sleep(interval)


def stays(condition, seconds, what, interval=0.05):
    """Fails if `condition` stops being true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), f"did not stay true for {seconds:g} s: {what}"
        time.sleep(interval)
