"""Computes how much host memory a load may hold."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from runai_model_streamer.config import UNLIMITED
from runai_model_streamer.errors import RunaiStreamerMemoryLimitException
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, largest_tensor

LIMIT: Final = "RUNAI_STREAMER_MEMORY_LIMIT"


class MemoryLimit(NamedTuple):
    """The limit of one load."""

    setting: int
    """Bytes; -1 for no limit; 0 for as much as the largest tensor needs."""
    name: str
    """The setting's name, for messages."""
    processes: int = 1
    """Number of processes of this node that share the limit."""
    minimum: int | None = None
    """Without a limit, hold at most twice the largest tensor, or these bytes if they are more; None for any number."""
    buffers: int = 0
    """Bytes of buffers that these processes share. They count once."""
    second_answers: int = 0
    """Bytes of this process for answers to second requests, where there are objects to read."""

    @property
    def part(self) -> int:
        """The setting, divided among the processes of the node. It never becomes 0, which means something else."""
        return self._part(self.buffers)

    def _part(self, buffers: int) -> int:
        return max((self.setting - buffers) // self.processes, 1) if self.setting > 0 else self.setting

    def bytes_for(self, paths: Sequence[str], files: Sequence[PlannedFile], made: int, scratch: int = 0) -> int | None:
        """Return the bytes that this process may hold at once, without tensors that it assembles from what was read.

        Args:
            paths: the files' paths, for messages.
            files: the tensors to read, with their sizes in memory.
            made: bytes of the largest tensor that is assembled from what was read.
            scratch: bytes that one reader needs to cast.

        Raises:
            RunaiStreamerMemoryLimitException: a tensor needs more.
        """
        if self.setting == UNLIMITED and self.minimum is None:
            return None
        largest = largest_tensor(files)
        needed = 0 if largest is None else largest[1].nbytes + made + scratch
        if self.setting == UNLIMITED:
            return max(2 * needed, self.minimum or 0) - made
        if largest is None:
            return self.part
        if self.setting == 0:
            return needed - made
        # If the limit is just enough for the tensors, the shared buffers (then at their minimum) come on top, and so
        # do second answers.
        second_answers = self.second_answers if any(file.kind is SourceKind.OBJECT for file in files) else 0
        part = max(self.part - second_answers, min(self._part(0), needed))
        if part < needed:
            index, tensor = largest
            size = f"{tensor.nbytes} bytes"
            size += f" as {tensor.dtype}, and {scratch} are needed to cast" if scratch else ""
            size += f" to be read at once, and the largest part that is cut from such bytes {made}" if made else ""
            divided = f" for {self.processes} processes of this node" if self.processes > 1 else ""
            raise RunaiStreamerMemoryLimitException(
                f"tensor {tensor.name!r} has {size}, more than {self.name}={self.setting}{divided}",
                where=paths[index],
                tensor=tensor.name,
                remedy=f"set it to {needed * self.processes} or more, or to 0 for as much as the largest tensor needs",
            )
        return part - made
