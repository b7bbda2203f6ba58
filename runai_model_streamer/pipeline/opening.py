"""Opens the files of a load and reads their headers, many at once where each costs a round trip."""

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TypeAlias

from runai_model_streamer.io.paths import Storage, is_object
from runai_model_streamer.io.safetensors import Header, read_header
from runai_model_streamer.io.source import Source

Opened: TypeAlias = tuple[Source, Header]


def open_files(storage: Storage, paths: Sequence[str], concurrency: int) -> list[Opened]:
    """Open every path and validate its header, before a byte of data is read.

    Args:
        concurrency: object storage requests in flight at once.

    Returns:
        Source and header of each path, in order. The sources are the caller's to close.

    Raises:
        StreamerError: the first error met; nothing is left open.
    """
    opened: dict[int, Opened] = {}
    try:
        remote = [index for index, path in enumerate(paths) if is_object(path)]
        if len(remote) > 1:
            _open_concurrently(storage, paths, remote, opened, min(concurrency, len(remote)))
        for index, path in enumerate(paths):
            if index not in opened:
                opened[index] = _open(storage, path)
    except BaseException:
        for source, _ in opened.values():
            source.close()
        raise
    return [opened[index] for index in range(len(paths))]


def _open(storage: Storage, path: str) -> Opened:
    source = storage.open(path)
    try:
        return source, read_header(source)
    except BaseException:
        source.close()
        raise


def _open_concurrently(
    storage: Storage, paths: Sequence[str], indices: Sequence[int], opened: dict[int, Opened], count: int
) -> None:
    waiting: SimpleQueue[int | None] = SimpleQueue()
    results: SimpleQueue[tuple[int, Opened | Exception]] = SimpleQueue()

    def work() -> None:
        while (index := waiting.get()) is not None:
            try:
                results.put((index, _open(storage, paths[index])))
            except Exception as error:
                results.put((index, error))

    for index in [*indices, *[None] * count]:
        waiting.put(index)
    # Daemons of our own, not an executor's threads, which the interpreter would wait for after a Ctrl-C.
    threads = [threading.Thread(target=work, name=f"runai-opener-{n}", daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        for _ in indices:
            index, result = results.get()
            if isinstance(result, Exception):
                raise result
            opened[index] = result
    except BaseException:
        while waiting.get() is not None:
            pass
        for _ in threads:
            waiting.put(None)
        storage.interrupt()
        raise
    finally:
        for thread in threads:
            thread.join(timeout=1)
