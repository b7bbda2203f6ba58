"""Connections share the authorities that they trust: the file is parsed once, and no other authority counts."""

import copy
import ctypes
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.libcurl import Code, Easy, Library
from runai_model_streamer.io.http.curl.request import MemoryStream
from runai_model_streamer.io.http.curl.trust import Trust
from tests.servers import Certificate, FaultServer, self_signed

REFUSED = Code.PEER_FAILED_VERIFICATION


@pytest.fixture(params=[True, False], ids=["shared", "each"])
def library(request: pytest.FixtureRequest) -> Library:
    try:
        found = copy.copy(libcurl.load())
    except libcurl.UnusableError as error:
        pytest.skip(str(error))
    if not request.param:
        found.openssl = None
    elif found.openssl is None:
        pytest.skip("this libcurl has no OpenSSL to share")
    return found


@pytest.fixture
def server(certificate: Certificate) -> Iterator[FaultServer]:
    with FaultServer(certificate) as server:
        yield server


@pytest.fixture
def other(tmp_path: Path) -> Iterator[FaultServer]:
    """A server that another authority vouches for."""
    with FaultServer(self_signed(tmp_path)) as server:
        yield server


def ask(library: Library, trust: Trust, server: FaultServer) -> int:
    """The result of a request by a handle of its own."""
    memory = ctypes.create_string_buffer(1 << 16)
    with closing(Easy(library)) as easy, closing(MemoryStream(ctypes.addressof(memory), len(memory))) as body:
        for option, value in (
            (libcurl.NOSIGNAL, 1),
            (libcurl.CAPATH, None),
            (libcurl.NOPROXY, "*"),
            (libcurl.URL, f"{server.endpoint}/bucket/nothing"),
            (libcurl.WRITEDATA, body.pointer),
        ):
            easy.set(option, value)
        trust.apply(easy)
        return easy.perform()


def test_the_file_of_authorities_is_read_once(
    library: Library, certificate: Certificate, server: FaultServer, tmp_path: Path
) -> None:
    copied = tmp_path / "authorities.pem"
    shutil.copy(certificate.certificate, copied)
    with closing(Trust(library, str(copied))) as trust:
        assert ask(library, trust, server) == Code.OK
        copied.unlink()
        later = Code.OK if library.openssl else Code.SSL_CACERT_BADFILE
        assert [ask(library, trust, server) for _ in range(3)] == [later] * 3


def test_no_connection_trusts_another_authority(
    library: Library, certificate: Certificate, server: FaultServer, other: FaultServer
) -> None:
    with closing(Trust(library, str(certificate.certificate))) as trust:
        found = [ask(library, trust, each) for each in (server, other, server, other)]
    assert found == [Code.OK, REFUSED, Code.OK, REFUSED]


def test_a_first_connection_that_is_refused_takes_nothing_from_the_next(
    library: Library, certificate: Certificate, server: FaultServer, other: FaultServer
) -> None:
    with closing(Trust(library, str(certificate.certificate))) as trust:
        assert [ask(library, trust, each) for each in (other, server)] == [REFUSED, Code.OK]


def test_it_can_be_closed_twice(library: Library, certificate: Certificate, server: FaultServer) -> None:
    trust = Trust(library, str(certificate.certificate))
    assert ask(library, trust, server) == Code.OK
    trust.close()
    trust.close()


def test_a_libcurl_that_knows_no_such_function_reads_the_file_each_time(
    certificate: Certificate, server: FaultServer, library: Library
) -> None:
    setter = library.set_pointer

    def refusing(handle: int, option: int, value: object) -> int:
        return 48 if option == libcurl.SSL_CTX_FUNCTION else int(setter(handle, option, value))

    library.set_pointer = refusing
    with closing(Trust(library, str(certificate.certificate))) as trust:
        assert [ask(library, trust, server) for _ in range(2)] == [Code.OK] * 2
