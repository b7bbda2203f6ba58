"""The contract of `Source`, held against every source there is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from runai_model_streamer.config import AzureConfig, DirectIO, GcsConfig, HubConfig, LoadConfig, S3Transport
from runai_model_streamer.io.azure.store import AzureStore
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.gcs.store import GcsStore
from runai_model_streamer.io.hub.store import HubStore
from runai_model_streamer.io.s3.store import S3Store
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.web.store import WebStore
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE
from tests.io import transports
from tests.io.azure.servers import ACCOUNT, Azure
from tests.io.azure.servers import KEY as ACCOUNT_KEY
from tests.io.cache import objects
from tests.io.contract import DATA, SourceContract
from tests.io.gcs.servers import Gcs
from tests.io.hub.servers import Hub
from tests.servers import FaultServer, MotoServer, moto_server
from tests.sources import MemorySource

BUCKET = "models"
KEY = "llama/model.safetensors"


class FileContract(SourceContract):
    kind = SourceKind.FILE
    direct: DirectIO

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        file = tmp_path / "model.safetensors"
        file.write_bytes(DATA)
        return str(file)

    @pytest.fixture
    def source(self, path: str) -> Iterator[Source]:
        with closing(FileSource(path, self.direct)) as source:
            yield source


class TestBufferedFile(FileContract):
    direct = DirectIO.NEVER


class TestDirectFile(FileContract):
    direct = DirectIO.ALWAYS


class TestFileReadAsSuits(FileContract):
    direct = DirectIO.AUTO


class TestMemorySource(SourceContract):
    """The fake that tests of everything above `io` stand on."""

    kind = SourceKind.FILE

    @pytest.fixture
    def path(self) -> str:
        return "/models/model.safetensors"

    @pytest.fixture
    def source(self, path: str) -> Iterator[Source]:
        with closing(MemorySource(path, DATA, kind=self.kind)) as source:
            yield source


class TestAlignedMemorySource(TestMemorySource):
    @pytest.fixture
    def source(self, path: str) -> Iterator[Source]:
        with closing(MemorySource(path, DATA, kind=self.kind, alignment=PAGE)) as source:
            yield source


class TestMemoryObject(TestMemorySource):
    kind = SourceKind.OBJECT


class TestObjectThatIsCached(TestMemorySource):
    """Read from the store, and written to the node's cache."""

    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return objects.URL

    @pytest.fixture
    def source(self, path: str, tmp_path: Path) -> Iterator[Source]:
        store = objects.MemoryStore(DATA)
        with closing(objects.make_cache(tmp_path).open(path, store.open)) as source:
            yield source


class TestCachedObject(TestObjectThatIsCached):
    """Read from the node's cache."""

    kind = SourceKind.FILE

    @pytest.fixture
    def source(self, path: str, tmp_path: Path) -> Iterator[Source]:
        store = objects.MemoryStore(DATA)
        cache = objects.make_cache(tmp_path)
        with closing(cache.open(path, store.open)) as source:
            objects.read(source, 0, len(DATA))
        with closing(cache.open(path, store.open)) as source:
            yield source


def open_store(server: FaultServer | MotoServer, transport: S3Transport) -> AbstractContextManager[S3Store]:
    if why := transports.missing(transport):
        pytest.skip(why)
    return transports.store_of(server, connections=16, transport=transport)


# One store for all tests of a server: making a client costs more than the tests.
each_transport = pytest.fixture(scope="module", params=transports.EACH, ids=lambda transport: transport.value)


@each_transport
def store(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    with FaultServer() as server, open_store(server, request.param) as store:
        server.put(BUCKET, KEY, DATA)
        yield store


@each_transport
def store_of_moto(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    with moto_server() as server, open_store(server, request.param) as store:
        server.put(BUCKET, KEY, DATA)
        yield store


class S3Contract(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return f"s3://{BUCKET}/{KEY}"


class TestS3Object(S3Contract):
    @pytest.fixture
    def source(self, store: S3Store, path: str) -> Iterator[Source]:
        with closing(store.open(path)) as source:
            yield source


class TestS3ObjectOfMoto(S3Contract):
    @pytest.fixture
    def source(self, store_of_moto: S3Store, path: str) -> Iterator[Source]:
        with closing(store_of_moto.open(path)) as source:
            yield source


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[WebStore, str]]:
    if why := transports.missing(S3Transport.CURL):
        pytest.skip(why)
    with FaultServer() as server, closing(WebStore(LoadConfig())) as store:
        server.put(BUCKET, KEY, DATA)
        yield store, f"{server.endpoint}/{BUCKET}/{KEY}"


class TestWebFile(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self, web: tuple[WebStore, str]) -> str:
        return web[1]

    @pytest.fixture
    def source(self, web: tuple[WebStore, str]) -> Iterator[Source]:
        store, url = web
        with closing(store.open(url)) as source:
            yield source


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStore]:
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    if why := transports.missing(S3Transport.CURL):
        pytest.skip(why)
    with FaultServer() as server, FaultServer() as cdn:
        model = Hub(server, cdn)
        model.put({"model.safetensors": DATA})
        config = LoadConfig(hub=HubConfig(model.endpoint, cache="/nowhere"))
        with closing(HubStore(config)) as store:
            yield store


class TestHubFile(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return "hf://org/model/model.safetensors"

    @pytest.fixture
    def source(self, hub: HubStore, path: str) -> Iterator[Source]:
        with closing(hub.open(path)) as source:
            yield source


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsStore]:
    if why := transports.missing(S3Transport.CURL):
        pytest.skip(why)
    with FaultServer() as server:
        Gcs(server).put(KEY, DATA)
        with closing(GcsStore(LoadConfig(gcs=GcsConfig(emulator=server.endpoint)))) as store:
            yield store


class TestGcsObject(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return f"gs://{BUCKET}/{KEY}"

    @pytest.fixture
    def source(self, gcs: GcsStore, path: str) -> Iterator[Source]:
        with closing(gcs.open(path)) as source:
            yield source


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureStore]:
    if why := transports.missing(S3Transport.CURL):
        pytest.skip(why)
    with FaultServer() as server:
        azure = Azure(server)
        azure.put(KEY, DATA)
        azure.allow(key=ACCOUNT_KEY)
        config = AzureConfig(account=ACCOUNT, key=Secret(ACCOUNT_KEY), endpoint=server.endpoint)
        with closing(AzureStore(LoadConfig(azure=config))) as store:
            yield store


class TestBlob(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return f"az://{BUCKET}/{KEY}"

    @pytest.fixture
    def source(self, azure: AzureStore, path: str) -> Iterator[Source]:
        with closing(azure.open(path)) as source:
            yield source
