"""Web servers of the tests: what they do, on top of `tests.servers`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from runai_model_streamer.config import LoadConfig, S3Config
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.web.store import WebStore
from tests.servers import Exchange, Fault, FaultServer, Request

TIMEOUT: Final = 30.0


class WebServers(NamedTuple):
    """Two servers on two hosts."""

    origin: FaultServer
    other: FaultServer

    @property
    def url(self) -> str:
        """The file, at the first server."""
        return f"{self.origin.endpoint}/models/model.safetensors"

    @property
    def elsewhere(self) -> str:
        """The file, at the second server, under another host's name."""
        return f"http://localhost:{self.other.port}/models/model.safetensors"


def redirect(target: str, status: int = 302) -> Fault:
    """Redirect to a URL."""
    return lambda exchange: exchange.refuse(status, "", {"Location": target})


def always(fault: Fault) -> Callable[[Request], Fault | None]:
    """For `FaultServer.choose`."""
    return lambda _: fault


def authorized(value: str) -> Callable[[Request], Fault | None]:
    """For `FaultServer.choose`: refuse requests without this `Authorization`."""

    def refuse(exchange: Exchange) -> None:
        exchange.refuse(401, "Unauthorized")

    return lambda request: None if request.headers.get("Authorization") == value else refuse


def with_headers(headers: Mapping[str, str | None]) -> Fault:
    """The right answer, with more headers, or without some."""

    def fault(exchange: Exchange) -> None:
        exchange.head(headers=headers)
        exchange.send(exchange.asked)

    return fault


@contextlib.contextmanager
def web_store(*, retries: int = 2, timeout: float = TIMEOUT, **s3: Any) -> Iterator[WebStore]:
    """A store with the settings of the environment."""
    config = LoadConfig.from_environment()
    settings = replace(config.s3, max_retries=retries, timeout=timeout, **s3)
    assert isinstance(settings, S3Config)
    with contextlib.closing(WebStore(replace(config, s3=settings))) as store:
        yield store


def read_whole(source: Source, piece: int = 100_000) -> bytes:
    """All bytes of a source, in several reads."""
    memory = bytearray(source.size)
    for start in range(0, source.size, piece):
        source.read_into(start, memoryview(memory)[start : start + piece])
    return bytes(memory)
