"""Starts stores on 127.0.0.1, and ends them. Each is skipped where it is not installed."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from botocore.config import Config
from botocore.session import Session

PATH: Final = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
"""Daemons of Debian's packages."""

START_SECONDS: Final = 90.0


class Store(NamedTuple):
    """A store that runs, and who may use it."""

    name: str
    version: str
    endpoint: str
    key: str
    secret: str
    folder: Path | None = None
    """A read-only store's: buckets are folders in it."""

    def client(self) -> Any:
        """botocore's, for what the tests put there."""
        session: Any = Session()
        session.set_credentials(self.key, self.secret)
        settings: Any = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.create_client("s3", region_name="us-east-1", endpoint_url=self.endpoint, config=settings)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, in a bucket that is made if there is none."""
        if self.folder is not None:
            path = self.folder / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            # As another file, so that its time differs.
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            return
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        if self.folder is not None:
            (self.folder / bucket / key).unlink()
        else:
            self.client().delete_object(Bucket=bucket, Key=key)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def need(*programs: str) -> None:
    """Skip where one of these is not installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("its daemons start as root only")


def run(*command: object) -> str:
    """What a program prints; an error has what it said."""
    environment = os.environ | {"PATH": PATH}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def wait_for(url: str) -> None:
    """Until something answers HTTP there."""
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=5):
                pass
        except OSError:
            assert time.monotonic() < ends, f"nothing answers at {url}"
            time.sleep(0.2)
        else:
            return


@contextlib.contextmanager
def daemon(*command: object, log: Path) -> Iterator[None]:
    """A process in the foreground of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=os.environ | {"PATH": PATH}, cwd=log.parent
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ceph(folder: Path) -> Iterator[Store]:
    """One monitor, one OSD with its data in memory, one radosgw."""
    need("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
    cluster, port, monitor = str(uuid.uuid4()), free_port(), free_port()
    conf, keys = folder / "ceph.conf", folder / "keyring"
    address = f"v2:127.0.0.1:{monitor}/0"
    conf.write_text(f"""[global]
fsid = {cluster}
mon initial members = a
mon host = {address}
public network = 127.0.0.0/8
keyring = {keys}
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
osd objectstore = memstore
memstore device bytes = 2147483648
osd memory target = 939524096
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 32
rgw run sync thread = false
""")
    allowed = {
        "mon.": ("mon", "allow *"),
        "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
        "client.rgw.a": ("mon", "allow *", "osd", "allow *"),
        "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    }
    run("ceph-authtool", "--create-keyring", keys)
    for name, pairs in allowed.items():
        caps = [word for kind, what in zip(pairs[::2], pairs[1::2], strict=True) for word in ("--cap", kind, what)]
        run("ceph-authtool", keys, "--gen-key", "-n", name, *caps)
    run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, folder / "monmap")
    (folder / "osd").mkdir()
    run("ceph-mon", "-c", conf, "-i", "a", "--mkfs", "--monmap", folder / "monmap", "--keyring", keys)
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(daemon("ceph-mon", "-c", conf, "-i", "a", "-f", log=folder / "mon.out"))
        run("ceph", "-c", conf, "osd", "new", uuid.uuid4())
        run("ceph", "-c", conf, "auth", "import", "-i", keys)
        (osd,) = json.loads(run("ceph", "-c", conf, "osd", "dump", "-f", "json"))["osds"]
        run("ceph-osd", "-c", conf, "-i", 0, "--mkfs", "--osd-uuid", osd["uuid"])
        daemons.enter_context(daemon("ceph-osd", "-c", conf, "-i", 0, "-f", log=folder / "osd.out"))
        daemons.enter_context(daemon("radosgw", "-c", conf, "-n", "client.rgw.a", "-f", log=folder / "rgw.out"))
        wait_for(f"http://127.0.0.1:{port}/")
        names = (
            "--uid=tests",
            "--display-name=tests",
            "--access-key=CEPHTESTKEY01",
            "--secret-key=ceph-test-secret-01",
        )
        run("radosgw-admin", "-c", conf, "user", "create", *names)
        tenant = ("--tenant=research", "--uid=r", "--display-name=r", "--access-key=TENANTKEY0001")
        run("radosgw-admin", "-c", conf, "user", "create", *tenant, "--secret-key=tenant-test-secret-01")
        version = run("radosgw", "--version").split()[2]
        yield Store("ceph", version, f"http://127.0.0.1:{port}", "CEPHTESTKEY01", "ceph-test-secret-01")


def swift(folder: Path) -> Iterator[Store]:
    """A proxy with s3api, and one server each for accounts, containers and objects."""
    need("swift-proxy-server", "swift-object-server", "swift-container-server", "swift-account-server", "memcached")
    (folder / "node" / "d").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = only\ndefault = yes\n"
    )
    # The path of this file is fixed in Swift's code.
    Path("/etc/swift").mkdir(exist_ok=True)
    shutil.copy(folder / "swift.conf", "/etc/swift/swift.conf")
    port, cache = free_port(), free_port()
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(
            daemon("memcached", "-u", "root", "-l", "127.0.0.1", "-p", cache, "-m", 32, log=folder / "memcached.out")
        )
        for name in ("object", "container", "account"):
            own = free_port()
            builder = folder / f"{name}.builder"
            run("swift-ring-builder", builder, "create", 4, 1, 0)
            run("swift-ring-builder", builder, "add", f"r1z1-127.0.0.1:{own}/d", 1)
            run("swift-ring-builder", builder, "rebalance")
            conf = folder / f"{name}.conf"
            conf.write_text(
                f"[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}/node\nmount_check = false\nbind_ip = 127.0.0.1\n"
                f"bind_port = {own}\nworkers = 1\nuser = root\nlog_facility =\ndisable_fallocate = true\n"
                f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
            )
            daemons.enter_context(daemon(f"swift-{name}-server", conf, log=folder / f"{name}.out"))
        filters = {
            "catch_errors": "", "gatekeeper": "", "healthcheck": "", "proxy-logging": "",
            "cache": f"memcache_servers = 127.0.0.1:{cache}\n", "listing_formats": "", "bulk": "",
            "s3api": "location = us-east-1\n", "tempauth": "user_test_tester = testing .admin\n", "slo": "", "dlo": "",
        }  # fmt: skip
        kinds = {"proxy-logging": "proxy_logging", "cache": "memcache"}
        (folder / "proxy.conf").write_text(
            f"[DEFAULT]\nswift_dir = {folder}\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 1\nuser = root\n"
            f"[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
            "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
            + "".join(
                f"[filter:{name}]\nuse = egg:swift#{kinds.get(name, name)}\n{more}" for name, more in filters.items()
            )
        )
        daemons.enter_context(daemon("swift-proxy-server", folder / "proxy.conf", log=folder / "proxy.out"))
        wait_for(f"http://127.0.0.1:{port}/healthcheck")
        version = run("/usr/bin/python3", "-c", "import importlib.metadata as m; print(m.version('swift'))").strip()
        yield Store("swift", version, f"http://127.0.0.1:{port}", "test:tester", "testing")


def moto(folder: Path) -> Iterator[Store]:
    """moto's server, which takes any credentials."""
    from importlib.metadata import version

    from tests.servers import moto_server

    with moto_server() as server:
        yield Store("moto", version("moto"), server.endpoint, "test", "test-secret")


def hadro(folder: Path) -> Iterator[Store]:
    """hadro, which serves a folder and is read-only."""
    try:
        from importlib.metadata import version

        found = version("hadro")
    except ImportError:
        pytest.skip("not installed: hadro")
    served = folder / "served"
    served.mkdir()
    port = free_port()
    yield from _hadro(folder, served, port, found)


def _hadro(folder: Path, served: Path, port: int, found: str) -> Iterator[Store]:
    command = (sys.executable, "-m", "hadro", served, "--host", "127.0.0.1", "--port", port)
    with daemon(*command, log=folder / "hadro.out"):
        wait_for(f"http://127.0.0.1:{port}/")
        yield Store("hadro", found, f"http://127.0.0.1:{port}", "test", "test-secret", served)


STORES: Final = {"moto": moto, "ceph": ceph, "swift": swift, "hadro": hadro}
