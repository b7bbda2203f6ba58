"""Properties of the file systems that hold checkpoints."""

import ctypes
from typing import Final

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.libc import libc

# Magic numbers of statfs(2), from linux/magic.h and the file systems' own sources.
_NAMES: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlayfs",
    0x6969: "nfs",
    0x0BD00BD0: "lustre",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x2FC12FC1: "zfs",
}

DIRECT: Final = frozenset({"ext4", "xfs", "btrfs", "f2fs"})
"""File systems on which `auto` reads uncached ranges past the page cache.

They keep their data on local disks, answer cachestat and mincore correctly, and honour O_DIRECT. On all others `auto`
reads through the page cache. tmpfs and ramfs are memory already. overlayfs reports its own, empty cache instead of the
one below. Network, parallel and FUSE file systems have their own readahead and caches, often shared with other nodes,
and O_DIRECT would disable them. ZFS caches outside the page cache.
"""

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
"""File systems on which every read is a copy from memory."""

LOCAL: Final = DIRECT | IN_MEMORY
"""File systems that know a file's size and times without asking another machine or process."""


def why_buffered(file_system: str, direct: DirectIO, *, shared: bool) -> str:
    """Return why files there are read through the page cache, where they are; "" where reads go past it."""
    if direct is DirectIO.ALWAYS:
        return ""
    if direct is DirectIO.NEVER:
        return "RUNAI_STREAMER_DIRECT_IO is 0"
    if file_system in IN_MEMORY:
        return f"{file_system} is memory"
    if file_system not in DIRECT:
        return f"direct reads of {file_system} may be slower"
    return "other processes of this node may read the same files" if shared else ""


def name(fd: int) -> str:
    """Return the name of the open file's file system; "unknown" if it is not in the table."""
    # On 64-bit Linux, struct statfs begins with f_type, a C long. 256 bytes hold the whole struct.
    answer = (ctypes.c_long * 32)()
    if libc().fstatfs(fd, ctypes.byref(answer)):
        return "unknown"
    return _NAMES.get(answer[0] & 0xFFFFFFFF, "unknown")
