"""Ctrl-C at a chosen point of a call.

Python raises KeyboardInterrupt in the main thread at the points where it looks for signals: after calls, at the
beginning of functions and at backward jumps. `interrupted_at` raises it at the point with a number.
"""

import dis
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

_LOOKS: Final = frozenset(
    code
    for name, code in dis.opmap.items()
    if name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME") or "BACKWARD" in name
)
"""Instructions after which Python looks for signals."""

_PACKAGE: Final = os.path.join("runai_model_streamer", "")


def _in_finaliser(frame: FrameType | None) -> bool:
    """Whether Python would print the exception and go on."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class Interruption:
    """Raises KeyboardInterrupt at one point of the package's code in this thread. It passes finalisers over.

    Attributes:
        points: how many points have been passed so far.
        place: where it was raised; None if the call ended before.
    """

    def __init__(self, number: int) -> None:
        self.points = 0
        self.place: str | None = None
        self._number = number
        self._last: dict[FrameType, int] = {}

    def call(self, frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        """Trace a function of the package, as `sys.settrace` wants it."""
        if _PACKAGE not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._trace

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        if event == "return":
            self._last.pop(frame, None)
        elif event == "opcode":
            before = self._last.get(frame)
            self._last[frame] = frame.f_code.co_code[frame.f_lasti]
            if before in _LOOKS:
                self.points += 1
                if self.points >= self._number and not _in_finaliser(frame):
                    sys.settrace(None)
                    self._last.clear()
                    self.place = (
                        f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_qualname}"
                    )
                    raise KeyboardInterrupt
        return self._trace


def interrupted_at(number: int, call: Callable[[], object]) -> Interruption:
    """Call, and raise KeyboardInterrupt at point `number`. It is swallowed here if the call lets it through.

    Returns:
        The interruption: `place` is None if the call has fewer points.
    """
    interruption = Interruption(number)
    before = sys.gettrace()
    sys.settrace(interruption.call)
    try:
        call()
    except KeyboardInterrupt:
        if interruption.place is None:
            raise
    else:
        if interruption.place is not None:
            raise AssertionError(f"the Ctrl-C at {interruption.place} was swallowed")
    finally:
        sys.settrace(before)
    return interruption
