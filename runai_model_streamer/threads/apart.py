"""Calls of C that would hold Ctrl-C back, in a thread of their own."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from runai_model_streamer.threads.crew import Crew

_T = TypeVar("_T")

STOPPING_SECONDS: Final = 10.0
"""Maximum seconds that a call has to end after Ctrl-C."""


def apart(task: str, work: Callable[[], _T], stop: Callable[[], object]) -> _T:
    """Call `work` in another thread if this is the main one, and wait for it. Return what it returns.

    Python handles Ctrl-C in the main thread only, and only between two steps of its own.

    Args:
        task: completes the error "no thread to <task> with".
        work: the call.
        stop: called after Ctrl-C; makes the call end soon.

    Raises:
        BaseException: what `work` raises.
        StreamerError: the system refuses a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    returned: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    crew = Crew("apart", task)
    try:
        crew.add(run)
        crew.join()
    except KeyboardInterrupt:
        stop()
        crew.join(STOPPING_SECONDS)
        raise
    if raised:
        raise raised.pop()  # else its traceback would lead to itself, and keep what it leads to until gc runs
    return returned.pop()
