"""The check of `doctor` for how a folder is mounted."""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from runai_model_streamer.cli.doctor.machine import Check

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_TOLD: Final = frozenset({"ro", "rw", "rsize", "nconnect", "proto", "vers", "max_read", "sync", "dax"})
"""Options that are shown: those that reads depend on. Others may hold secrets."""
_REQUESTS: Final = {"nfs": "rsize", "nfs4": "rsize", "cifs": "rsize", "smb3": "rsize", "fuse": "max_read"}
"""File system -> its option for the bytes of one request."""
_SMALL: Final = 1 << 20
"""Bytes of one request, below which a network file system asks many times for one read of ours."""


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    options: dict[str, str]
    """Those of the mount and of its file system; "" where one has no value."""


def mount_of(path: str, table: Path = _MOUNTS) -> Mount | None:
    """Return the mount that a path is on; None if the kernel does not say."""
    try:
        lines = table.read_text().splitlines()
        device = os.stat(path).st_dev
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    place = os.path.realpath(path)
    found = [mount for line in lines if (mount := _parsed(line, number)) and _contains(mount.point, place)]
    # The last one of those with the longest name is the one in front.
    return max(reversed(found), key=lambda mount: len(mount.point), default=None)


def _parsed(line: str, number: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    if len(fields) < 6 or len(rest) < 3 or fields[2] != number:
        return None
    point = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[4])
    options = (each.partition("=") for each in [*fields[5].split(","), *rest[2].split(",")])
    return Mount(point, rest[0], {name: value for name, _, value in options})


def _contains(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def mounted(path: str, table: Path = _MOUNTS) -> Check | None:
    """Check the options of the mount that a path is on; None if nothing can be said."""
    mount = mount_of(path, table)
    if mount is None:
        return None
    shown = " ".join(name + (f"={value}" if value else "") for name, value in mount.options.items() if name in _TOLD)
    what = f"{mount.point} ({mount.kind}{', ' + shown if shown else ''})"
    kind = mount.kind.partition(".")[0]
    option = _REQUESTS.get(kind, "")
    request = mount.options.get(option, "")
    if request.isdecimal() and int(request) < _SMALL:
        what = f"{what}: asks for {request} bytes at a time"
        return Check("mount", "warning", what, f"mount it with {option}={_SMALL}")
    if kind in ("nfs", "nfs4") and mount.options.get("nconnect", "1") == "1":
        return Check("mount", "ok", f"{what}: one TCP connection", "on a fast network mount it with nconnect=8")
    return Check("mount", "ok", what)
