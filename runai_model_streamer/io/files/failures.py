"""What the system says of local files, as errors of this package."""

import errno
import os
import re
from typing import Final, Literal

from runai_model_streamer import errors
from runai_model_streamer.ranges import ByteRange

_HUB_NAME: Final = re.compile(r"(?P<organization>[\w.-]*\w)/[\w.-]+(?<!\.safetensors)(?<!\.json)")
"""What a repository of the Hub is called, but for names of files."""


def dangling(path: str) -> errors.NotFoundError | None:
    """Return the error for a path that is, or contains, a dangling symbolic link; else None."""
    part = path
    while part and not os.path.lexists(part):
        part = os.path.dirname(part)
    if not os.path.islink(part):
        return None
    leads_to = os.readlink(part)
    broken_link = f"is a symbolic link to {leads_to}, which is not there"
    if part != path:
        broken_link = f"{part} {broken_link}"
    return errors.NotFoundError(broken_link, where=path)


def _of_the_hub(path: str) -> str:
    """Return a remedy for a path that may be meant as the name of a model of the Hugging Face Hub, "" for others."""
    name = _HUB_NAME.fullmatch(path)
    if name is None or os.path.isdir(name["organization"]):
        return ""
    return f"a model of the Hugging Face Hub would be hf://{path}"


def translated(
    error: OSError, path: str, span: ByteRange | None = None, kind: Literal["file", "folder"] = "file"
) -> errors.StreamerError:
    """Turn what the system says of a file or folder into an error of this package."""
    where = errors.Where(path, span)
    match error.errno:
        case errno.ENOENT if kind == "folder":
            return dangling(path) or errors.NotFoundError("no such folder", where=where, remedy=_of_the_hub(path))
        case errno.ENOTDIR if kind == "folder":
            return errors.NotDirectoryError(
                "is a file, not a folder", where=where, remedy="stream_file takes it as it is"
            )
        case errno.ENOENT | errno.ENOTDIR:
            return dangling(path) or errors.NotFoundError("no such file", where=where, remedy=_of_the_hub(path))
        case errno.EACCES | errno.EPERM:
            return errors.AccessDeniedError(
                "this user may not read it", where=where, remedy=f"check the {kind}'s permissions"
            )
        case errno.EMFILE | errno.ENFILE:
            return errors.ReadError(
                "too many open files", where=where, remedy="raise the limit with `ulimit -n`", errno=error.errno
            )
        case _:
            why = error.strerror or error
            problem = f"{span}: cannot be read: {why}" if span else f"cannot be read: {why}"
            return errors.ReadError(problem, where=where, errno=error.errno)
