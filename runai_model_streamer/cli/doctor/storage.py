"""The checks of `doctor` for a folder of files and for object storage."""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from runai_model_streamer.cli.doctor.machine import Check, Status
from runai_model_streamer.cli.doctor.mounts import mounted
from runai_model_streamer.cli.output import counted
from runai_model_streamer.config import DirectIO, GdsMode, LoadConfig, S3Config, S3Transport
from runai_model_streamer.errors import ConfigError, GdsUnavailableError, MissingDependencyError, StreamerError
from runai_model_streamer.io.files import file_systems, gds
from runai_model_streamer.io.files.device import device_of
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.files.requests import MIN_REQUEST
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.s3 import diagnosis
from runai_model_streamer.origins import Origin
from runai_model_streamer.ranges import PAGE
from runai_model_streamer.settings.units import setting_text, size_text

_UNLINKED: Final = ".runai-streamer-doctor-"
_GIVE_FOLDER: Final = "give a folder of safetensors files that this user may read"


def folder(path: str, *, on_gpu: bool) -> Iterator[Check]:
    """Check how files of this folder, or this file, are read."""
    try:
        with _sample(path) as file:
            yield from _file(file, path, on_gpu=on_gpu)
    except StreamerError as error:
        yield Check("path", "error", error.summary, error.remedy or _GIVE_FOLDER)
    except OSError as error:
        yield Check("path", "error", f"{path}: {error.strerror}", _GIVE_FOLDER)


@contextmanager
def _sample(path: str) -> Iterator[str]:
    """Yield a file to try: the path itself, a file of the folder, or a temporary file in it."""
    if not os.path.isdir(path):
        yield path
        return
    with os.scandir(path) as found:
        files = [entry for entry in found if entry.is_file() and entry.stat().st_size >= PAGE]
    if files:
        yield min(files, key=lambda entry: (not entry.name.endswith(".safetensors"), entry.name)).path
        return
    with tempfile.NamedTemporaryFile(dir=path, prefix=_UNLINKED) as made:
        made.write(bytes(PAGE))
        made.flush()
        yield made.name


def _file(file: str, path: str, *, on_gpu: bool) -> Iterator[Check]:
    source = FileSource(file, DirectIO.ALWAYS)
    try:
        fd = source.fileno()
        kind = file_systems.name(fd)
        length = min(source.size, PAGE)
        origin = source.read_into(0, memoryview(mmap.mmap(-1, PAGE))[:length]) if length == PAGE else None
        cached = PageCache(fd, os.fstat(fd)).cached_bytes(0, source.size)
        yield _direct(path, kind, origin, answers=cached is not None)
        if (mount := mounted(file)) is not None:
            yield mount
        if origin is Origin.DISK and kind in file_systems.DIRECT:
            yield _device(fd, path)
        if cached is not None and kind in file_systems.DIRECT:
            held = f"{size_text(min(cached, source.size))} of {size_text(source.size)}"
            yield Check("cached", "ok", f"{file}: {held} are in memory")
        if on_gpu:
            yield _gpudirect(source, path)
    finally:
        source.close()


def _direct(path: str, kind: str, origin: Origin | None, *, answers: bool) -> Check:
    where = f"{path} ({kind})"
    if kind in file_systems.IN_MEMORY:
        return Check("direct reads", "ok", f"{where}: is in memory, where there is nothing to read past")
    if origin is None:
        return Check("direct reads", "ok", f"{where}: the file is shorter than a page, nothing to try")
    if origin is not Origin.DISK:
        what = f"{where}: O_DIRECT is refused: files are read through the page cache"
        return Check("direct reads", "warning" if kind in file_systems.DIRECT else "ok", what)
    if kind not in file_systems.DIRECT:
        what = f"{where}: O_DIRECT works; by default files here are read through the page cache all the same"
        return Check("direct reads", "ok", what, "where files are read once, compare with RUNAI_STREAMER_DIRECT_IO=1")
    if not answers:
        what = f"{where}: O_DIRECT works, but only a file's owner or writer may ask what is cached"
        return Check("direct reads", "warning", what, "chown the files to this user, or RUNAI_STREAMER_DIRECT_IO=1")
    return Check("direct reads", "ok", f"{where}: O_DIRECT works: what is not in memory is read past the page cache")


def _device(fd: int, path: str) -> Check:
    found = device_of(os.fstat(fd).st_dev)
    disks = counted(found.members, "hard disk" if found.seeks else "disk")
    begin = (
        f"{counted(found.streams, 'read')} at once, {setting_text(MIN_REQUEST)} each, to begin with; more if that helps"
    )
    # Not Linux AIO or io_uring, since a plain preadv is as fast (benchmarks/RESULTS.md).
    return Check("disk", "ok", f"{path}: on {found.name} ({disks}): {begin}; by preadv, which needs no permission")


def _gpudirect(source: FileSource, path: str) -> Check:
    try:
        file = gds.open_gds(source, GdsMode.ALWAYS)
    except GdsUnavailableError as error:
        return Check("gpudirect path", "warning", error.summary, "see docs/gpu.md, GPUDirect Storage")
    if file is not None:
        file.close()
    return Check("gpudirect path", "ok", f"{path}: cuFile reads its files straight into the GPU's memory")


def s3(urls: list[str], load_curl: Callable[[], libcurl.Library] = libcurl.load) -> Iterator[Check]:
    """Check the transport, the credentials, and whether each bucket answers."""
    try:
        config = LoadConfig.from_environment().s3
    except ConfigError as error:
        yield Check("s3", "error", error.summary, error.remedy)
        return
    yield _libcurl(config, load_curl)
    try:
        found = diagnosis.identify(config, load_curl)
    except MissingDependencyError as error:
        yield Check("s3", "error" if urls else "ok", f"{error.summary}, which is not installed", error.remedy)
        return
    except StreamerError as error:
        yield Check("s3 credentials", "error", error.summary, error.remedy)
        return
    yield Check("s3 transport", "ok", found.transport)
    yield Check("s3 endpoint", "ok", f"{found.endpoint} (region {found.region})")
    yield _credentials(found, needed=bool(urls))
    for url in urls:
        yield _bucket(config, url)


def _libcurl(config: S3Config, load: Callable[[], libcurl.Library]) -> Check:
    try:
        library = load()
    except libcurl.UnusableError as error:
        status: Status = "error" if config.transport is S3Transport.CURL else "warning"
        remedy = "conda install -c conda-forge libcurl, or the system's package libcurl4"
        return Check("libcurl", status, f"not found, boto3 reads s3:// instead, more slowly: {error}", remedy)
    return Check("libcurl", "ok", f"{library.version} in {library.path}")


def _credentials(found: diagnosis.Identity, *, needed: bool) -> Check:
    if found.origin is None:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return Check("s3 credentials", "error" if needed else "ok", "none found", remedy if needed else "")
    key = f", key {found.key_id}" if found.key_id else ""
    return Check("s3 credentials", "ok", f"from {found.origin}{key}{', temporary' if found.temporary else ''}")


def _bucket(config: S3Config, url: str) -> Check:
    try:
        if diagnosis.answers(config, url):
            return Check("s3 bucket", "ok", f"{url} answers")
    except StreamerError as error:
        return Check("s3 bucket", "error", error.summary, error.remedy)
    remedy = "check the prefix; case, spaces and slashes count"
    return Check("s3 bucket", "warning", f"{url}: the bucket answers, but has no key under this prefix", remedy)
