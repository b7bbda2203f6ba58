"""Describes one rank's part in a load that ranks share."""

from dataclasses import dataclass

from runai_model_streamer.settings.units import size_text


@dataclass(frozen=True, slots=True)
class SharedLoad:
    """One rank's part in a load that ranks share (`is_distributed`). Its bytes are exact."""

    rank: int
    """This rank, in torch's default process group."""
    ranks: tuple[int, ...]
    """Those that want some of the same bytes, this one among them."""
    memory: bool
    """Whether ranks of this node pass each other bytes through memory that they share."""
    device: bool
    """Whether their GPUs pass them on. If neither, they go through sockets."""
    bytes_read: int
    """Read from storage by this rank for all that want them, itself among them."""
    bytes_received: int
    """Received through a socket, for all of this node that want them."""
    bytes_taken: int
    """Copied out of memory that another rank of this node has filled, or out of what its GPU has passed on."""
    bytes_alone: int
    """Read by this rank for itself: just it wants them, or they were in the page cache."""
    ring_bytes: int
    """Bytes of host memory that the ranks of this node share, or upload from, all together."""
    wait_seconds: dict[int, float]
    """Rank -> thread-seconds in which threads of this one waited for it: for its reads, or until it had taken bytes."""

    def __str__(self) -> str:
        """Say what this rank did for others, what others did for it, and for whom it waited longest."""
        others = ", ".join(str(rank) for rank in self.ranks if rank != self.rank)
        way = "memory" if self.memory else "GPUs" if self.device else "sockets"
        done = f"with rank {others} through {way}: {size_text(self.bytes_read)} read for all"
        came = self.bytes_taken + self.bytes_received
        done += f", {size_text(came)} of others' reads taken"
        if not self.wait_seconds:
            return done
        rank, seconds = max(self.wait_seconds.items(), key=lambda each: each[1])
        return f"{done}; waited longest for rank {rank} ({seconds:.2f} thread-seconds)"
