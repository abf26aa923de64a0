"""How to wait for a condition, with a limit."""

import os
from collections.abc import Callable
from time import monotonic, sleep  # as a test may replace time.sleep

# Seconds: far more than anything here takes. On a slow machine, SLOWER=3 makes it three times more.
LIMIT = 20 * float(os.environ.get("SLOWER", 1))
# Called while we wait: each raises AssertionError when the condition cannot come any more.
watchers: list[Callable[[], object]] = []


def wait_until(
    condition: Callable[[], object],
    what: str,
    limit: float = LIMIT,
    seen: Callable[[], object] = lambda: "nothing",
) -> None:
    """Wait until `condition` returns something true; AssertionError if that takes too long.

    The error says what was waited for, and what `seen` returns then.
    """
    deadline = monotonic() + limit
    while not condition():
        for watch in watchers:
            watch()
        if monotonic() > deadline:
            raise AssertionError(f"waited {limit:.0f} s for {what}; seen: {seen()} (SLOWER=3?)")
        sleep(0.02)
