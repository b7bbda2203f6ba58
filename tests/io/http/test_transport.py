"""Which transport is chosen, what it keeps to itself, and how it ends."""

import copy
import gc
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.httpsession import get_cert_path

from runai_model_streamer.config import S3Transport
from runai_model_streamer.errors import MissingDependencyError, StorageUnreachableError, StreamerError
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.transport import SignedRequest, Window
from runai_model_streamer.io.s3.access import MakeAccess, make_access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.signing import sign
from runai_model_streamer.io.s3.store import S3Store
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE
from tests.io import transports
from tests.io.files.local_files import in_child
from tests.io.transports import URL, store_of
from tests.servers import Certificate, FaultServer, refuse, reset_after, stall_after

pytestmark = pytest.mark.usefixtures("aws_files")

PLANTED = S3Credentials("AKIDPLANTED", "PLANTED-SECRET-KEY", "PLANTED-SESSION-TOKEN")
DATA = random.Random(9).randbytes(1_000_000)

needs_curl = pytest.mark.skipif(
    bool(transports.missing(S3Transport.CURL)), reason=transports.missing(S3Transport.CURL) or "-"
)


def loaded() -> libcurl.Library:
    """A libcurl of which a test may replace functions."""
    try:
        return copy.copy(libcurl.load())
    except libcurl.UnusableError as error:
        pytest.skip(str(error))


def over(library: libcurl.Library) -> MakeAccess:
    """Access by this libcurl."""
    return partial(make_access, load_curl=lambda: library)


def _no_libcurl() -> libcurl.Library:
    raise libcurl.UnusableError("libcurl.so.4: cannot open shared object file")


WITHOUT_CURL: MakeAccess = partial(make_access, load_curl=_no_libcurl)


def name_of(store: S3Store) -> str:
    return store.access().transport.name


class TestChoice:
    @needs_curl
    def test_libcurl_is_the_default_where_it_is_found(self, server: FaultServer) -> None:
        with store_of(server, transport=S3Transport.AUTO) as store:
            assert name_of(store).startswith("curl ")

    def test_boto3_is_used_when_it_is_asked_for(self, server: FaultServer) -> None:
        with store_of(server, transport=S3Transport.BOTO3) as store:
            assert name_of(store).startswith("boto3 (botocore ")

    @needs_curl
    def test_the_choice_is_logged_with_the_library_and_its_version(
        self, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        library = libcurl.load()
        assert os.path.isabs(library.path)
        with (
            caplog.at_level(logging.DEBUG, "runai_model_streamer"),
            store_of(server, transport=S3Transport.AUTO) as store,
        ):
            store.access()
        assert f"read through curl {library.version} ({library.path})" in caplog.text

    def test_without_it_boto3_serves_and_the_log_says_why(
        self,
        server: FaultServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        buffer = bytearray(len(DATA))
        with (
            caplog.at_level(logging.DEBUG, "runai_model_streamer"),
            store_of(server, transport=S3Transport.AUTO, make=WITHOUT_CURL) as store,
        ):
            store.open(URL).read_into(0, memoryview(buffer))
            assert name_of(store).startswith("boto3 ")
        assert buffer == DATA
        assert "not read through curl: " in caplog.text
        assert "libcurl" in caplog.text

    def test_without_it_asking_for_curl_is_an_error_with_the_remedy(self, server: FaultServer) -> None:
        curl_only = store_of(server, transport=S3Transport.CURL, make=WITHOUT_CURL)
        with curl_only as store, pytest.raises(MissingDependencyError) as caught:
            store.open(URL)
        for part in ("RUNAI_STREAMER_S3_TRANSPORT=curl", "libcurl4", "=auto"):
            assert part in str(caught.value)

    def test_what_is_not_needed_yet_is_not_imported(self, server: FaultServer) -> None:
        code = (
            "import sys; from runai_model_streamer.io.s3.store import S3Store; "
            "from runai_model_streamer.config import S3Config, S3Transport; "
            "from runai_model_streamer.io.s3.access import S3Credentials; "
            "print([name for name in sys.modules if name.startswith(('boto', 'urllib3', 'numba'))]); "
            f"config = S3Config({server.endpoint!r}, False, transport=S3Transport.BOTO3); "
            f"print(S3Store(config, S3Credentials('a', 'secret'), 1).open({URL!r}).size, 'numba' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["[]", f"{len(DATA)} False"]

    def test_the_environments_own_libcurl_comes_before_the_systems(self, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "libcurl.so.4").write_bytes(b"not a library")
        found = libcurl.candidates([str(tmp_path), sys.base_prefix])
        assert found[0] == str(tmp_path / "lib" / "libcurl.so.4")
        assert found[-1] == "libcurl.so.4"


@needs_curl
class TestTrust:
    """Whom libcurl trusts is what it is told, and nothing that it was built with."""

    @pytest.fixture
    def folder(self, certificate: Certificate, tmp_path: Path) -> Path:
        """A folder of trusted certificates, as OpenSSL wants it, with the server's in it."""
        command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate.certificate)]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        (tmp_path / "trusted").mkdir()
        shutil.copy(certificate.certificate, tmp_path / "trusted" / f"{name}.0")
        return tmp_path / "trusted"

    def test_a_bundle_takes_the_place_of_the_folder_that_libcurl_was_built_with(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        library = loaded()
        make = library.init

        def init() -> int:
            # As a build's own folder: it is the option's value from the beginning.
            handle: int = make()
            assert library.set_pointer(handle, libcurl.CAPATH, str(folder).encode()) == 0
            return handle

        library.init = init
        monkeypatch.setenv("AWS_CA_BUNDLE", str(get_cert_path(True)))
        with (
            FaultServer(certificate) as server,
            store_of(server, transport=S3Transport.CURL, retries=0, make=over(library)) as store,
            pytest.raises(StorageUnreachableError, match="is not trusted"),
        ):
            store.open(URL)

    def test_a_proxy_over_tls_is_held_against_the_same_bundle(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.certificate))
        with (
            FaultServer(certificate) as server,
            store_of("http://store.example.com", transport=S3Transport.CURL, retries=0) as store,
        ):
            server.put("bucket", "model.safetensors", DATA)
            monkeypatch.setenv("HTTP_PROXY", server.endpoint)
            assert store.open(URL).size == len(DATA)

    def test_a_libcurl_without_such_options_serves_all_the_same(self, server: FaultServer) -> None:
        library = loaded()
        setter = library.set_pointer
        lacking = (libcurl.CAPATH, libcurl.PROXY_CAINFO, libcurl.PROXY_CAPATH)

        def set_pointer(handle: int, option: int, value: Any) -> int:
            code: int = 48 if option in lacking else setter(handle, option, value)
            return code

        library.set_pointer = set_pointer
        with store_of(server, transport=S3Transport.CURL, make=over(library)) as store:
            assert store.open(URL).size == len(DATA)


@pytest.mark.usefixtures("transport")
class TestLimitOfOpenFiles:
    CHILD = """
import fcntl, os, resource, sys
from runai_model_streamer.config import S3Config, LoadConfig
from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.s3.store import S3Store
from runai_model_streamer.io.s3.access import S3Credentials
from runai_model_streamer.io.s3.signing import sign

url, endpoint, free = sys.argv[1], sys.argv[2], int(sys.argv[3])
transport = LoadConfig.from_environment().s3.transport
store = S3Store(S3Config(endpoint, False, max_retries=0, transport=transport), S3Credentials("a", "secret-key"), 1)
sign(store.access().client, "bucket", "key")
before = os.fstat(0)[:3], fcntl.fcntl(0, fcntl.F_GETFL)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = []
try:
    while True:
        held.append(os.dup(2))
except OSError:
    for _ in range(free):
        os.close(held.pop())
try:
    store.open(url)
except ReadError as error:
    print(error)
for descriptor in held:
    os.close(descriptor)
print(before == (os.fstat(0)[:3], fcntl.fcntl(0, fcntl.F_GETFL)), store.open(url).size)
store.close()
"""

    @pytest.mark.parametrize("free", [0, 1, 2, 3])
    def test_it_is_told_and_nothing_else_is_taken_for_a_connection(self, server: FaultServer, free: int) -> None:
        command = [sys.executable, "-c", self.CHILD, URL, server.endpoint, str(free)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        *told, after = done.stdout.splitlines()
        # A connection takes two: one is there to cut it short. libcurl takes some of its own.
        assert told or free >= 2
        for line in told:
            assert line.startswith(f"{URL}: too many open files (")
            assert "`ulimit -n`" in line
        assert after == f"True {len(DATA)}"
        assert done.stderr == ""


@pytest.mark.usefixtures("transport")
class TestSigning:
    def test_an_object_is_signed_once_for_its_opening_and_all_its_ranges(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            for at in range(300_000, 900_000, 100_000):
                source.read_into(at, memoryview(bytearray(1000)))
        assert len({request.headers["Authorization"] for request in server.requests}) == 1
        assert len({request.headers["Range"] for request in server.requests}) == 7
        for name in ("range", "if-match"):
            assert name not in server.requests[-1].headers["Authorization"].partition("SignedHeaders=")[2].split(",")[0]

    def test_no_url_carries_a_signature(self, server: FaultServer) -> None:
        with store_of(server) as store:
            store.open(URL)
        assert {request.target for request in server.requests} == {"/bucket/model.safetensors"}

    @pytest.mark.parametrize(("age", "fresh"), [(0, True), (250, True), (301, False), (-350, False)])
    def test_a_signature_serves_for_five_minutes(self, age: int, fresh: bool) -> None:
        assert SignedRequest("http://store/key", {}, time.time() - age).fresh is fresh


@pytest.mark.usefixtures("transport")
class TestSecrets:
    def test_a_load_with_faults_shows_none_of_them_anywhere(
        self, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "runai_model_streamer"), store_of(server, PLANTED, retries=1) as store:
            source = store.open(URL)
            server.script(reset_after(100), refuse(503, "SlowDown"))
            with pytest.raises(StreamerError) as caught:
                source.read_into(500_000, memoryview(bytearray(1000)))
            access = store.access()
            shown = [repr(value) for value in (store, source, access, access.transport, vars(source))]
        signature = server.requests[0].headers["Authorization"].rpartition("Signature=")[2]
        text = "".join([*traceback.format_exception(caught.value), caplog.text, *shown])
        assert "attempt 1 failed" in text
        for secret in ("PLANTED-", signature, "Authorization"):
            assert secret not in text


class TestWindow:
    def test_bytes_at_the_least_speed_or_above_are_let_pass(self) -> None:
        now = 0.0
        window = Window(10.0, lambda: now)
        for second in range(100):
            now = float(second)
            window.check(second * 1024)

    def test_fewer_over_a_whole_span_are_an_error_however_many_there_were_before(self) -> None:
        now = 0.0
        window = Window(10.0, lambda: now)
        window.check(5_000_000)
        now = 10.0
        window.check(8_000_000)
        now = 19.9
        window.check(8_000_001)
        now = 20.0
        with pytest.raises(TransportError) as caught:
            window.check(8_000_002)
        assert caught.value.failure is Failure.SLOW


@pytest.mark.usefixtures("transport")
class TestEnding:
    def test_a_buffer_that_was_read_into_is_held_by_nobody(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            slab = np.zeros(100_000, np.uint8)
            alive = weakref.ref(slab)
            gc.disable()
            try:
                source.read_into(500_000, slab.data)
                del slab
                assert alive() is None
            finally:
                gc.enable()

    def test_ctrl_c_ends_a_stalled_read_of_the_main_thread(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            server.script(stall_after(1000))

            def press() -> None:
                assert server.stalled.acquire(timeout=PATIENCE)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

            finger = threading.Thread(target=press)
            finger.start()
            with pytest.raises(KeyboardInterrupt):
                source.read_into(500_000, memoryview(bytearray(100_000)))
            finger.join()

    def test_ctrl_c_pressed_twice_leaves_libcurl_nothing_at_work(self, server: FaultServer) -> None:
        entered, pressed = threading.Event(), threading.Event()
        working: list[int] = []
        library = loaded()
        perform = library.perform

        def slow(handle: int) -> int:
            if not opened:
                return int(perform(handle))
            working.append(handle)
            entered.set()
            assert pressed.wait(PATIENCE)
            code = int(perform(handle))
            working.remove(handle)
            return code

        library.perform = slow
        opened: list[str] = []

        def press() -> None:
            main = threading.main_thread().ident or 0
            assert entered.wait(PATIENCE)
            signal.pthread_kill(main, signal.SIGINT)
            while not flight.cut:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.1)  # in which whoever does not wait is gone
            pressed.set()

        with store_of(server, make=over(library)) as store:
            store.open(URL).close()
            if not store.transport or not store.transport.startswith("curl"):
                pytest.skip("of libcurl's transport")
            opened.append(URL)
            with Flights().flight() as flight:
                finger = threading.Thread(target=press)
                finger.start()
                request = sign(store.access().client, "bucket", "model.safetensors")
                buffer = bytearray(100_000)
                with pytest.raises(KeyboardInterrupt):
                    store.access().transport.get(request, ByteRange(0, 100_000), None, memoryview(buffer), flight)
                assert working == []
                finger.join()

    def test_a_store_can_be_closed_in_a_child_process_without_harm_to_the_parents_connection(
        self, server: FaultServer
    ) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            in_child(store.close)
            source.read_into(500_000, memoryview(bytearray(1000)))
        assert (len(server.requests), server.connections) == (2, 1)
