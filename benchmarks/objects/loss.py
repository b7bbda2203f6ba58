"""A network that loses packets: a namespace of this process's own, in which the kernel drops some of a server's.

Needs root, and the programs ip and nft (apt install iproute2 nftables). Everything is gone with the process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence

PART = 0.005
"""Part of packets that is lost."""

MTU = 9000
"""Bytes of a packet, as within a cloud's network. Loopback's own are 64 KiB, and sent 64 KiB at once."""

_NEW_NETWORK = 0x40000000


class NoNamespaceError(Exception):
    """This process may have no network of its own, or lacks a program; the message says which."""


def enter() -> None:
    """Move this process into a network of its own, before it has threads.

    Raises:
        NoNamespaceError: it may not, or lacks a program.
    """
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            raise NoNamespaceError(f"there is no program {program}: apt install iproute2 nftables")
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise NoNamespaceError(f"no network of its own: {os.strerror(ctypes.get_errno())}; root may have one")
    _run("ip", "link", "set", "lo", "mtu", str(MTU), "gso_max_segs", "1", "up")


def drop(ports: Sequence[int]) -> None:
    """Lose `PART` of the packets that servers send from these ports.

    Raises:
        NoNamespaceError: the kernel has no such filter.
    """
    listed = ", ".join(map(str, ports))
    _run(
        "nft",
        "add table inet loss; "
        "add chain inet loss input { type filter hook input priority 0; }; "
        f"add rule inet loss input tcp sport {{ {listed} }} numgen random mod 1000 < {round(PART * 1000)} drop",
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaceError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
