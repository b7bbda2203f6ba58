"""Daemon threads that share one task."""

import threading
import time
from collections.abc import Callable

from runai_model_streamer.errors import StreamerError


class Crew:
    """Daemon threads for one task, started one by one.

    A thread that hangs in the kernel does not keep the process from ending. An executor's threads would: the
    interpreter waits for them, even after a Ctrl-C.

    Args:
        role: of each thread, which is named `runai-<role>-<number>`, from 0 on.
        task: for the error, "no thread to <task> with".
    """

    def __init__(self, role: str, task: str) -> None:
        self._role = role
        self._task = task
        self.threads: list[threading.Thread] = []
        """Those that have been started."""

    def add(self, work: Callable[[], object]) -> bool:
        """Start one more thread. By one thread at a time.

        Returns:
            False where the system gives no more threads: those that there are have to do.

        Raises:
            StreamerError: the system gives not even the first one.
        """
        thread = threading.Thread(target=work, name=f"runai-{self._role}-{len(self.threads)}", daemon=True)
        self.threads.append(thread)  # before it runs: a Ctrl-C may come while it starts
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
        """Wait until all threads have ended, for at most this time. Returns the names of those that have not.

        None waits as long as it takes.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self.threads:  # a thread that has ended has added those that it started
            if thread.is_alive():
                thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        # `is_alive` is False for a thread whose join a Ctrl-C cut short: Python 3.11 and 3.12 take it for ended.
        alive = threading.enumerate()
        return [thread.name for thread in self.threads if thread in alive]
