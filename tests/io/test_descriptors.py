"""A process that may open few files: fewer connections, and all the bytes."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.descriptors import at_most_allowed
from tests.checkpoints import numbered, write
from tests.servers import FaultServer

CHILD = """
import resource, sys
import torch
from runai_model_streamer import S3Credentials, SafetensorsStreamer
limit, endpoint, urls = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with SafetensorsStreamer() as streamer:
    streamer.stream_files(urls, S3Credentials("a key", "a secret", endpoint=endpoint))
    total = sum(tensor.nbytes for _, tensor in streamer.get_tensors())
print(total, streamer.report.settings.concurrency, streamer.report.retries)
"""


@pytest.fixture
def limited() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_are_as_many_connections_as_descriptors_are_left_for(limited: None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, hard))
    many = at_most_allowed(1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    assert many - at_most_allowed(1000) == 50


def test_there_are_no_more_than_wanted(limited: None) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert at_most_allowed(16) == 16


def test_there_is_always_one(limited: None) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert at_most_allowed(16) == 1


def test_a_load_of_a_process_with_64_descriptors_takes_fewer_connections(tmp_path: Path, aws_files: None) -> None:
    data = write(tmp_path / "model", numbered([500_000])).read_bytes()
    with FaultServer() as server:
        server.put("bucket", "model", data)
        command = [sys.executable, "-c", CHILD, "64", server.endpoint, *["s3://bucket/model"] * 40]
        environment = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0", "AWS_EC2_METADATA_DISABLED": "true"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    total, connections, retries = map(int, done.stdout.split())
    assert (total, retries) == (40 * 500_000, 0)
    assert 1 <= connections <= 8
