"""No secret is in the `repr` of anything that a frame of the package holds while a load fails.

Error reporters print the variables of a traceback's frames, and of every thread's. So these are looked at twice:
whenever an exception passes through a function of the package or one ends, in any thread; and once more in the
traceback of what the caller catches. What they reach is looked at, too.
"""

import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import pytest
import torch

import runai_model_streamer
from runai_model_streamer import S3Credentials, SafetensorsStreamer, StreamerError, list_safetensors, pull_files
from runai_model_streamer.config import S3Config
from runai_model_streamer.io.http.proxies import Proxy
from runai_model_streamer.io.secret import Secret, Url
from tests.checkpoints import stored, write
from tests.io.transports import URL
from tests.servers import (
    Fault,
    FaultServer,
    aws_environment,
    cut_short,
    endless_headers,
    garbage,
    longer,
    no_length,
    other_range,
    refuse,
    reset_after,
    reset_at_once,
    shorter,
    stall_after,
    stall_before_headers,
    whole_object,
)

PACKAGE: Final = os.path.dirname(runai_model_streamer.__file__)
SECRET: Final = "PlantedSecretKey/0000000000000000000000+"
TOKEN: Final = "PlantedSessionToken/000000000000000000000000000000000000+"
PASSWORD: Final = "planted-password-1"
PLANTED: Final = (SECRET, TOKEN, PASSWORD)

DEEPEST: Final = 4
"""Attributes of attributes that are looked at."""

MAKE_SECRET: Final = {"readable", "_text", "_parse", "without_user", "<dictcomp>", "<genexpr>", "<listcomp>", "errors"}
"""Functions in which text becomes what does not show itself, and the folder that takes secrets out of what others
raise. They do nothing else, and end in no exception."""

pytestmark = pytest.mark.usefixtures("transport", "waits")


def leaks(value: object, seen: dict[int, object], depth: int = 0) -> Iterator[str]:
    """Where a planted secret is in the `repr` of a value, or of what it holds."""
    if id(value) in seen or depth > DEEPEST or isinstance(value, types.ModuleType | type | int | float):
        return
    if depth and isinstance(value, Exception) and not isinstance(value, StreamerError):
        return  # see `Watch.look`
    seen[id(value)] = value
    if isinstance(value, bytes | bytearray | memoryview):
        # Faster than `repr`, and there may be much of it.
        if not isinstance(value, memoryview) and any(secret.encode() in value for secret in PLANTED):
            yield type(value).__name__
        return
    if isinstance(value, torch.Tensor):
        return
    try:
        shown = repr(value)
    except Exception:
        shown = ""
    if any(secret in shown for secret in PLANTED):
        yield f"{type(value).__name__}: {shown[:200]}"
    if isinstance(value, BaseException):
        return
    if type(value).__module__.startswith("runai_model_streamer") and not type(value).__name__.startswith("Watched"):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*getattr(value, "__dict__", ()), *slots]
        for name in names:
            if not name.startswith("__"):
                yield from leaks(getattr(value, name, None), seen, depth + 1)
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for each in [*value.keys(), *value.values()] if isinstance(value, dict) else list(value):
            yield from leaks(each, seen, depth + 1)


class Watch:
    """Looks at the variables of the package's functions in all threads, whenever one ends or an exception passes."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.frames = 0
        self._lock = threading.Lock()

    def look(self, frame: types.FrameType) -> None:
        self.frames += 1
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, Exception) and not isinstance(value, StreamerError):
                continue  # what others raise: looked at in the traceback of what the caller catches, if it gets there
            for leak in leaks(value, {}):
                with self._lock:
                    self.found.add(f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}): {name}: {leak}")

    def trace(self, frame: types.FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_lines = False
        elif event in ("return", "exception") and not MAKE_SECRET & {
            frame.f_code.co_name,
            *Path(frame.f_code.co_filename).parts,
        }:
            # What looks is not looked at.
            before = sys.gettrace()
            sys.settrace(None)
            try:
                self.look(frame)
            finally:
                sys.settrace(before)
        return self.trace

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        threading.settrace(self._before)

    def look_at_traceback(self, error: BaseException | None) -> None:
        """Of an exception, of what it was made from, and of what was handled when it was raised."""
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            self.found.update(f"{type(error).__name__}: {leak}" for leak in leaks(error, {}))
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
                    self.look(trace.tb_frame)
                trace = trace.tb_next
            error = error.__cause__ or error.__context__


def load(url: str = URL, **named: Any) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(url, **named)
        for _ in streamer.get_tensors():
            pass


def tell_on(action: Callable[[], object]) -> None:
    """Let it fail, and hold against it what its frames show."""
    with Watch() as watch:
        caught: BaseException | None = None
        try:
            action()
        except Exception as error:
            caught = error
    assert caught is not None, "it did not fail"
    watch.look_at_traceback(caught)
    assert watch.frames > 1
    assert not any(secret in str(caught) for secret in PLANTED)
    assert not watch.found, "\n".join(sorted(watch.found))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    """A store, with planted secrets in the environment that leads to it."""
    path = write(tmp_path / "model.safetensors", {"t": stored("F32", [1 << 19])})
    with FaultServer() as server:
        server.put("bucket", "model.safetensors", path.read_bytes())
        plant(monkeypatch, tmp_path, server.endpoint)
        yield server


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path, endpoint: str) -> None:
    variables = aws_environment(folder) | {
        "AWS_ACCESS_KEY_ID": "AKIDPLANTED",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_DEFAULT_REGION": "us-east-1",
        "RUNAI_STREAMER_S3_ENDPOINT": endpoint.replace("://", f"://user:{PASSWORD}@"),
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_MAX_RETRIES": "1",
        "RUNAI_STREAMER_S3_TIMEOUT": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


FAULTS: Final[Mapping[str, Fault]] = {
    "access denied": refuse(403, "AccessDenied"),
    "wrong signature": refuse(403, "SignatureDoesNotMatch"),
    "wrong id": refuse(403, "InvalidAccessKeyId"),
    "expired": refuse(400, "ExpiredToken"),
    "no object": refuse(404, "NoSuchKey"),
    "no bucket": refuse(404, "NoSuchBucket"),
    "other region": refuse(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
    "failing": refuse(500, "InternalError"),
    "slow down": refuse(503, "SlowDown"),
    "changed": refuse(412, "PreconditionFailed"),
    "not understood": refuse(400, "Strange"),
    "reset": reset_at_once(),
    "reset in the body": reset_after(1000),
    "silent": stall_before_headers(),
    "silent in the body": stall_after(1000),
    "cut short": cut_short(1000),
    "shorter": shorter(10),
    "longer": longer(10),
    "no length": no_length(),
    "other range": other_range(5),
    "whole object": whole_object(),
    "endless headers": endless_headers(),
    "garbage": garbage(),
}


@pytest.mark.parametrize("fault", [each for each in FAULTS if each not in ("longer", "no length", "whole object")])
def test_no_secret_is_shown_where_opening_fails(store: FaultServer, fault: str) -> None:
    store.choose = lambda _: FAULTS[fault]
    tell_on(load)


@pytest.mark.parametrize("fault", ["access denied", "expired", "reset in the body", "silent", "other range", "changed"])
def test_no_secret_is_shown_where_a_read_fails(store: FaultServer, fault: str) -> None:
    store.choose = lambda request: None if (request.span or (0,))[0] == 0 else FAULTS[fault]
    tell_on(load)


@pytest.mark.parametrize("fault", ["access denied", "no bucket", "failing", "reset", "garbage", "silent"])
def test_no_secret_is_shown_where_a_listing_fails(store: FaultServer, fault: str) -> None:
    store.choose = lambda _: FAULTS[fault]
    tell_on(lambda: list_safetensors("s3://bucket"))


def test_no_secret_is_shown_where_a_pull_fails(store: FaultServer, tmp_path: Path) -> None:
    store.choose = lambda request: None if "list-type" in request.target else FAULTS["access denied"]
    tell_on(lambda: pull_files("s3://bucket", str(tmp_path / "pulled")))


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
def test_no_secret_is_shown_where_a_store_sends_it_back(store: FaultServer, secret: str) -> None:
    store.choose = lambda _: refuse(400, "Strange", message=f"you sent {secret}")
    try:
        load()
    except Exception as error:
        watch = Watch()
        watch.look_at_traceback(error)
        assert not watch.found, "\n".join(sorted(watch.found))
    else:
        pytest.fail("it did not fail")


SETTINGS: Final[Mapping[str, tuple[str, str]]] = {
    "a proxy's password with a slash": ("HTTP_PROXY", f"http://user:pa/{PASSWORD}@127.0.0.1:9"),
    "a proxy of a strange kind": ("HTTP_PROXY", f"strange://user:{PASSWORD}@127.0.0.1:9"),
    "a proxy that is not there": ("HTTP_PROXY", f"http://user:{PASSWORD}@127.0.0.1:9"),
    "a region with a space": ("AWS_DEFAULT_REGION", "no region"),
    "a region with a line break": ("AWS_DEFAULT_REGION", "us-east-1\n"),
    "no such profile": ("AWS_PROFILE", "nobody"),
    "no such bundle": ("AWS_CA_BUNDLE", "/nowhere.pem"),
    "a token with a line break": ("AWS_SESSION_TOKEN", f"{TOKEN}\n"),
    "half of the credentials": ("AWS_SECRET_ACCESS_KEY", ""),
    "no number": ("RUNAI_STREAMER_CONCURRENCY", "many"),
    "no transport": ("RUNAI_STREAMER_S3_TRANSPORT", "pigeons"),
    "no endpoint there": ("RUNAI_STREAMER_S3_ENDPOINT", f"http://user:{PASSWORD}@127.0.0.1:1"),
    "no endpoint there over TLS": ("RUNAI_STREAMER_S3_ENDPOINT", f"https://user:{PASSWORD}@127.0.0.1:1"),
    "an endpoint without a scheme": ("RUNAI_STREAMER_S3_ENDPOINT", f"user:{PASSWORD}@127.0.0.1:1"),
    "an endpoint's password with a slash": ("RUNAI_STREAMER_S3_ENDPOINT", f"http://user:pa/{PASSWORD}@127.0.0.1:1"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_no_secret_is_shown_where_a_setting_is_wrong(
    store: FaultServer, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    store.choose = lambda _: FAULTS["access denied"]
    monkeypatch.setenv(*SETTINGS[case])
    tell_on(load)


@pytest.mark.parametrize(
    "credentials",
    [
        S3Credentials("AKID", SECRET, TOKEN, endpoint=f"http://user:{PASSWORD}@127.0.0.1:1"),
        S3Credentials(None, SECRET, TOKEN),
        S3Credentials("AKID", None, TOKEN),
        S3Credentials("AKID", SECRET, f"{TOKEN}\r\n"),
        S3Credentials("AKID", SECRET, TOKEN, "no region"),
    ],
    ids=["unreachable", "no id", "no secret", "line break", "no region"],
)
def test_no_secret_is_shown_of_explicit_credentials(store: FaultServer, credentials: S3Credentials) -> None:
    store.choose = lambda _: FAULTS["access denied"]
    tell_on(lambda: load(s3_credentials=credentials))


@pytest.mark.parametrize("name", ["bucket/nothing.safetensors", "bucket/folder/", "/key", "Bad Bucket!/key"])
def test_no_secret_is_shown_where_a_url_is_wrong(store: FaultServer, name: str) -> None:
    tell_on(lambda: load(f"s3://{name}"))


def test_no_holder_of_a_secret_shows_it() -> None:
    holders = (
        S3Credentials("AKID", SECRET, TOKEN, endpoint=f"http://user:{PASSWORD}@host"),
        Proxy("http://proxy", Secret("user"), Secret(PASSWORD)),
        S3Config(Url(f"http://user:{PASSWORD}@host")),
    )
    assert [leak for holder in holders for leak in leaks(holder, {})] == []
