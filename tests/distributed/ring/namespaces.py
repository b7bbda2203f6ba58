"""Network namespaces that stand for nodes: two of them, with a cable between. Root may make them."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RANKS: Final = "RANK_NAMESPACES"
"""Environment variable: the namespace of each rank."""

_NEW_NETWORK: Final = 0x40000000


class NoNamespacesError(Exception):
    """This process may not make them."""


@contextmanager
def two() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, whose interfaces are called the same."""
    names = (f"rms{os.getpid()}a", f"rms{os.getpid()}b")
    first, second = names
    try:
        try:
            _ip("netns", "add", first)
            _ip("netns", "add", second)
            _ip("link", "add", first, "netns", first, "type", "veth", "peer", "name", second, "netns", second)
            for number, name in enumerate(names, 1):
                _ip("-n", name, "addr", "add", f"10.213.77.{number}/24", "dev", name)
                _ip("-n", name, "link", "set", name, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoNamespacesError from error
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def enter(rank: int) -> None:
    """Move this process, of one thread, into its rank's namespace, if it has one."""
    names = os.environ.get(RANKS)
    if names is None:
        return
    name = names.split(",")[rank]
    file = os.open(f"/run/netns/{name}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(file, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), f"setns {name}")
    os.close(file)
    os.environ["GLOO_SOCKET_IFNAME"] = name
