"""Distributed streaming, in processes that meet over gloo."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.checkpoints import Stored, encode, stored, write
from tests.distributed_ranks import KILLED
from tests.servers import FaultServer, aws_environment

ROOT = Path(__file__).parents[1]
TIMEOUT = 120
"""Seconds after which ranks that have not ended are killed."""

LARGE = {f"t{index}": stored("U8", (3_000_000,), index) for index in range(8)}
ODD = {
    "byte": stored("U8", (3,), 1),
    "nothing": stored("F32", (0, 4), 2),
    "unaligned": stored("F64", (1001,), 3),
    "scalar": stored("BF16", (), 4),
    "half": stored("F16", (7, 3), 5),
    "bool": stored("BOOL", (5,), 6),
    "last": stored("I64", (0,), 7),
}
SMALL = {"only": stored("U8", (5,), 9)}
OBJECTS = {
    "a": {f"a{index}": stored("U8", (700_001 + 1000 * index,), index) for index in range(9)},
    "b": {"b": stored("BF16", (11_000_000,), 2), "tiny": stored("U8", (1,), 2)},
    # With a header that is longer than what an opening brings.
    "c": {
        f"a name of some length for a small tensor, number {index:05}": stored("U8", (3,), index)
        for index in range(3000)
    },
}

Outcomes = list[dict[str, dict[str, Any]]]


def expected(*files: dict[str, Stored]) -> list[str]:
    """Name and digest of each tensor, in order."""
    return [f"{name} {hashlib.sha256(each.data).hexdigest()}" for file in files for name, each in file.items()]


def found(outcome: dict[str, Any]) -> list[str]:
    """The same, of what a rank got."""
    assert "error" not in outcome, outcome["text"]
    return [f"{name} {digest}" for name, _, _, digest in outcome["tensors"]]


def run(folder: Path, ranks: int, program: str, **environment: str) -> Outcomes:
    """What each rank has seen; nothing for one that died."""
    for old in ("meeting", "codes.json", *(f"{rank}.json" for rank in range(ranks))):
        (folder / old).unlink(missing_ok=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RUNAI_", "AWS_"))}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-m", "tests.distributed_ranks", str(folder), str(ranks), program]
    done = subprocess.run(
        ["timeout", "--signal=KILL", str(TIMEOUT), *command],
        check=False,
        env=variables,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads((folder / "codes.json").read_text())
    assert [code for code in codes if code not in (0, -9)] == [], done.stderr
    return [json.loads(file.read_text()) if (file := folder / f"{rank}.json").exists() else {} for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for all programs."""
    made = tmp_path_factory.mktemp("ranks")
    for name, tensors in (("large", LARGE), ("odd", ODD), ("small", SMALL), ("none", {})):
        write(made / f"{name}.safetensors", tensors)
    for name, tensors in (("True", ODD), ("False", SMALL)):
        (made / f"sized-{name}").mkdir()
        write(made / f"sized-{name}" / "model.safetensors", tensors)
    write(made / "shared.safetensors", SMALL)
    write(made / "other.safetensors", SMALL)
    (made / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{no JSON}       ")
    return made


class Served(NamedTuple):
    outcomes: Outcomes
    server: FaultServer
    objects: dict[str, bytes]


@pytest.fixture(scope="module", params=[2, 4])
def equal(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with FaultServer() as server:
        objects = {name: encode(tensors) for name, tensors in OBJECTS.items()}
        for name, data in objects.items():
            server.put("bucket", f"{name}.safetensors", data)
        access = aws_environment(tmp_path_factory.mktemp("aws")) | {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RUNAI_STREAMER_S3_ENDPOINT": server.endpoint,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        yield Served(run(folder, request.param, "equal", **access), server, objects)


def test_every_rank_gets_every_tensor_of_a_file_in_the_same_order(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["one file"]) == expected(LARGE)


def test_every_rank_gets_every_tensor_of_objects_in_the_same_order(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["objects"]) == expected(*OBJECTS.values())
        assert rank["objects"]["files"] == len(OBJECTS)


def test_each_byte_of_an_object_is_fetched_once_by_all_ranks_together(equal: Served) -> None:
    for name, data in equal.objects.items():
        spans = sorted(
            request.span
            for request in equal.server.requests
            if request.span is not None and f"/{name}.safetensors" in request.target
        )
        position = 0
        for first, last in spans:
            assert first == position
            position = min(last, len(data) - 1) + 1
        assert position == len(data)
    assert equal.server.bytes_served == sum(map(len, equal.objects.values()))


def test_each_ranks_report_tells_what_it_read_and_what_it_was_sent(equal: Served) -> None:
    ranks = len(equal.outcomes)
    for name, own in (("one file", "disk"), ("objects", "object_storage")):
        reports = [rank[name]["report"] for rank in equal.outcomes]
        for report in reports:
            assert (report["outcome"], report["settings"]["ranks"]) == ("complete", ranks)
            assert report["bytes"] == report["total_bytes"] <= report["bytes_read"]
            assert report["bytes_from"][own] + report["bytes_from"]["other_ranks"] == report["bytes_read"]
            assert 0 < report["bytes_from"][own] < report["bytes_from"]["other_ranks"] * ranks
        assert sum(report["bytes_from"][own] for report in reports) == reports[0]["bytes_read"]
    for rank in equal.outcomes:
        alone = rank["switched off"]["report"]
        assert (alone["settings"]["ranks"], alone["bytes_from"]["other_ranks"]) == (1, 0)


def test_zero_size_and_unaligned_tensors_and_fewer_tensors_than_ranks(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["odd"]) == expected(ODD, SMALL)
        assert [shape for _, _, shape, _ in rank["odd"]["tensors"]] == [
            list(each.shape) for each in (ODD | SMALL).values()
        ]


def test_no_files_are_an_ordinary_load(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["no files"]) == []


def test_tensors_can_be_selected(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["names"]) == expected({"t1": LARGE["t1"], "t3": LARGE["t3"], "byte": ODD["byte"]})


def test_the_least_memory_is_enough(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["least memory"]) == expected(LARGE)


def test_one_rank_tells_the_throughput(equal: Served) -> None:
    told = [[line for line in rank["one file"]["lines"] if "Overall time" in line] for rank in equal.outcomes]
    assert [len(lines) for lines in told] == [1] + [0] * (len(told) - 1)


def test_distribution_can_be_switched_off_which_the_log_tells(equal: Served) -> None:
    for rank in equal.outcomes:
        assert found(rank["switched off"]) == expected(SMALL)
        assert any("RUNAI_STREAMER_DIST=0" in line for line in rank["switched off"]["lines"])


def test_no_thread_is_left(equal: Served) -> None:
    for rank in equal.outcomes:
        assert {name: outcome["threads"] for name, outcome in rank.items() if outcome["threads"]} == {}


@pytest.fixture(scope="module")
def failing(folder: Path) -> Outcomes:
    return run(folder, 4, "failing")


def others(outcomes: Outcomes, name: str, culprit: int) -> list[dict[str, Any]]:
    """What the ranks saw that are not to blame: an error that names the one that is."""
    seen = [outcome[name] for rank, outcome in enumerate(outcomes) if rank != culprit]
    for outcome in seen:
        assert outcome.get("error") == "DistributedError", outcome
        assert f"rank {culprit} " in outcome["text"]
        assert outcome["ranks"] == [culprit]
    return seen


def test_a_rank_that_raises_in_its_loop_ends_the_load_for_all(failing: Outcomes) -> None:
    assert failing[2]["raises"]["text"] == "the caller's own trouble"
    for outcome in others(failing, "raises", 2):
        assert "ValueError: the caller's own trouble" in outcome["text"]


def test_a_rank_that_leaves_its_loop_ends_the_load_for_all(failing: Outcomes) -> None:
    for outcome in others(failing, "leaves", 1):
        assert "left before it had all tensors" in outcome["text"]


def test_other_paths_are_named(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["another file"]["error"] == "DistributedError"
        assert rank["another file"]["ranks"] == [3]
        assert "paths" in rank["another file"]["text"]


def test_a_rank_with_another_file_of_the_same_path_is_named(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["another size"]["ranks"] == [3]
        assert "size of ./model.safetensors: " in rank["another size"]["text"]


def test_another_limit_is_named(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["another limit"]["ranks"] == [2]
        assert "RUNAI_STREAMER_MEMORY_LIMIT: 100000000 on rank 0, 100000001 on rank 2" in rank["another limit"]["text"]


def test_a_rank_that_cannot_read_keeps_its_error_and_the_others_are_told_it(failing: Outcomes) -> None:
    assert failing[1]["broken"]["error"] == "ReadError"
    for outcome in others(failing, "broken", 1):
        assert "ReadError" in outcome["text"]
        assert "large.safetensors" in outcome["text"]


def test_a_damaged_header_is_told_by_the_rank_that_reads_it(failing: Outcomes) -> None:
    assert failing[1]["damaged"]["error"] == "HeaderError"
    for outcome in others(failing, "damaged", 1):
        assert "HeaderError" in outcome["text"]


def test_the_memory_limit_is_divided_by_the_ranks_of_the_node(failing: Outcomes) -> None:
    for rank in failing:
        assert found(rank["limit divided"]) == expected(LARGE)
        assert rank["limit too low"]["error"] in ("RunaiStreamerMemoryLimitException", "DistributedError")
    told = [rank["limit too low"]["text"] for rank in failing]
    assert all("for 4 processes of this node; set it to 12000000 or more" in text for text in told)


def test_after_loads_that_failed_one_works(failing: Outcomes) -> None:
    for rank in failing:
        assert found(rank["afterwards"]) == expected(LARGE)
        assert rank["afterwards"]["threads"] == []


def test_failures_are_quick(failing: Outcomes) -> None:
    # Connections that are closed tell, long before the timeout of ten minutes.
    for rank in failing:
        assert {name: outcome["seconds"] for name, outcome in rank.items() if outcome.get("seconds", 0) > 30} == {}


def test_a_rank_that_is_killed_is_named_by_the_others(folder: Path) -> None:
    outcomes = run(folder, 4, "killed")
    assert json.loads((folder / "codes.json").read_text())[KILLED] == -9
    for outcome in others(outcomes, "killed", KILLED):
        assert "died" in outcome["text"]
        assert (
            found(outcome | {"error": None} if False else {"tensors": outcome["tensors"]})
            == expected(LARGE)[: len(outcome["tensors"])]
        )


def test_a_rank_that_stands_still_or_never_comes_is_waited_for_no_longer_than_the_timeout(folder: Path) -> None:
    outcomes = run(folder, 3, "standing")
    for outcome in others(outcomes, "stands still", 0):
        assert "took no part for 2 s" in outcome["text"]
    assert "rank 0 took no part" in outcomes[0]["stands still"]["text"]
    for rank in (0, 2):
        assert outcomes[rank]["never comes"]["error"] == "DistributedError"
        assert "did not meet within 2 s" in outcomes[rank]["never comes"]["text"]


def test_the_ranks_of_a_node_share_the_reads_or_all_ranks_do(folder: Path) -> None:
    outcomes = run(folder, 4, "nodes")
    total = sum(len(each.data) for each in LARGE.values())
    for rank in outcomes:
        for outcome in rank.values():
            assert found(outcome) == expected(LARGE)
        assert sum(rank["by node"]["read"]) == pytest.approx(total / 2, rel=0.15)
        assert sum(rank["globally"]["read"]) == pytest.approx(total / 4, rel=0.3)
    assert sum(outcomes[0]["alone"]["read"]) >= total
    assert any("alone on its node" in line for line in outcomes[0]["alone"]["lines"])
    for rank in outcomes[1:]:
        assert sum(rank["alone"]["read"]) == pytest.approx(total / 3, rel=0.2)
