"""Waits in which Ctrl-C works."""

import threading
from typing import Final

LOOK_SECONDS: Final = 0.25
"""Seconds that a wait lasts at most before Python looks for signals.

A signal interrupts a thread that waits. One that comes a moment before the wait begins, or that the system hands to
another thread, only sets a flag, and a wait without end would never see it. So the caller's thread waits in pieces.
"""


def wait_for_change(condition: threading.Condition, seconds: float = LOOK_SECONDS) -> None:
    """Wait until the condition is notified, `seconds` have passed, or Python should look for signals. For a loop."""
    condition.wait(min(seconds, LOOK_SECONDS))
