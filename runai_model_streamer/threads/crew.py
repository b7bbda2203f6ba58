"""Daemon threads that share one task."""

import threading
import time
from collections.abc import Callable

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.threads.signals import LOOK_SECONDS


class Crew:
    """Daemon threads for one task, started one by one.

    A daemon thread that hangs in the kernel does not keep the process from ending. An executor's threads would: the
    interpreter waits for them, even after a Ctrl-C.

    Args:
        role: names the threads `runai-<role>-<number>`, from 0 on.
        task: completes the error "no thread to <task> with".
    """

    def __init__(self, role: str, task: str) -> None:
        self._role = role
        self._task = task
        self.threads: list[threading.Thread] = []
        """The threads started so far."""

    def add(self, work: Callable[[], object]) -> bool:
        """Start one more thread. Only one thread at a time may call it.

        Returns:
            False if the system refuses more threads. The crew goes on with those it has.

        Raises:
            StreamerError: the system refuses the first thread.
        """
        thread = threading.Thread(target=work, name=f"runai-{self._role}-{len(self.threads)}", daemon=True)
        self.threads.append(thread)  # before it runs: a Ctrl-C may arrive while it starts
        try:
            thread.start()
        except RuntimeError as error:
            self.threads.remove(thread)
            if self.threads:
                return False
            raise StreamerError(
                f"no thread to {self._task} with: {error}", remedy="raise the limit with `ulimit -u`"
            ) from error
        return True

    def join(self, seconds: float | None = None) -> list[str]:
        """Wait at most `seconds` for all threads to end; with None, as long as it takes.

        Returns:
            The names of the threads that have not ended.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self.threads:  # a thread adds those that it starts before it ends
            while thread.is_alive():
                left = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
                thread.join(max(min(left, LOOK_SECONDS), 0))
                if left <= 0:
                    break
        # After a Ctrl-C during `join`, `is_alive` is wrongly False in Python 3.11 and 3.12.
        alive = threading.enumerate()
        return [thread.name for thread in self.threads if thread in alive]
