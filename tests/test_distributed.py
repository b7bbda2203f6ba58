"""Distributed streaming, in processes that meet over gloo."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.checkpoints import Stored, encode, stored, write
from tests.cuda_emulator import NoCompilerError, build
from tests.distributed_ranks import EMULATOR, KILLED, PATIENCE, RAW_BYTES, RAW_RANGES
from tests.servers import FaultServer, aws_environment

ROOT = Path(__file__).parents[1]
TIMEOUT = 240
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

RAW = random.Random(3).randbytes(RAW_BYTES)
COLUMNS = {"columns": stored("F32", (40, 40_000), 1), "narrow": stored("F16", (6, 4), 2)}
FLOATS = {
    "wide": Stored("F32", (1_000_003,), np.linspace(-3, 3, 1_000_003, dtype=np.float32).tobytes()),
    "half": Stored("F16", (5, 3), np.arange(15, dtype=np.float16).tobytes()),
    "whole": stored("I64", (3,), 4),
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
    # Not past the page cache, nor from it without being asked: the files have just been written, and what is cached is
    # not shared.
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RUNAI_STREAMER_DIRECT_IO": "0", **environment}
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
    for name, tensors in (
        ("large", LARGE),
        ("odd", ODD),
        ("small", SMALL),
        ("none", {}),
        ("columns", COLUMNS),
        ("floats", FLOATS),
    ):
        write(made / f"{name}.safetensors", tensors)
    for name, tensors in (("True", ODD), ("False", SMALL)):
        (made / f"sized-{name}").mkdir()
        write(made / f"sized-{name}" / "model.safetensors", tensors)
    write(made / os.fsdecode(b"n\xff.safetensors"), LARGE)
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
        server.put("bucket", "raw.bin", RAW)
        access = aws_environment(tmp_path_factory.mktemp("aws")) | {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RUNAI_STREAMER_S3_ENDPOINT": server.endpoint,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        outcomes = run(folder, request.param, "equal", **access)
        yield Served(
            outcomes, server, {f"{name}.safetensors": data for name, data in objects.items()} | {"raw.bin": RAW}
        )


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
            if request.span is not None and f"/{name}" in request.target
        )
        position = 0
        for first, last in spans:
            assert first == position
            position = min(last, len(data) - 1) + 1
        assert position == len(data)
    assert equal.server.bytes_served == sum(map(len, equal.objects.values()))


def test_each_ranks_report_tells_what_it_read_and_what_it_took_of_others(equal: Served) -> None:
    ranks = len(equal.outcomes)
    for name in ("one file", "objects"):
        reports = [rank[name]["report"] for rank in equal.outcomes]
        for number, report in enumerate(reports):
            shared = report["shared"]
            assert (report["outcome"], report["settings"]["ranks"]) == ("complete", ranks)
            assert (shared["rank"], shared["ranks"], shared["memory"]) == (number, list(range(ranks)), True)
            assert (
                report["bytes"] == report["total_bytes"] <= report["bytes_read"] == sum(report["bytes_from"].values())
            )
            assert shared["bytes_taken"] == pytest.approx(report["bytes"] * (1 - 1 / ranks), rel=0.3)
            # A read that ends in another rank's block is not all from there.
            assert report["bytes_from"]["other_ranks"] == shared["bytes_taken"]
            assert (shared["bytes_received"], shared["bytes_alone"]) == (0, 0)
            assert set(shared["wait_seconds"]) <= {str(each) for each in range(ranks) if each != number}
            assert 0 < shared["ring_bytes"] <= 512 << 20
        # In whole pages.
        assert sum(each["shared"]["bytes_read"] for each in reports) == pytest.approx(reports[0]["bytes"], rel=0.001)
    for rank in equal.outcomes:
        alone = rank["switched off"]["report"]
        assert (alone["settings"]["ranks"], alone["bytes_from"]["other_ranks"], alone["shared"]) == (1, 0, None)


def test_every_rank_gets_every_range_in_the_order_asked_for(equal: Served, folder: Path) -> None:
    large = (folder / "large.safetensors").read_bytes()
    ranges = [(7, large, ([500_000, 0, 499_990, 9], [3_000_000, 12, 20, 0])), (-1, RAW, RAW_RANGES)]
    wanted = [
        f"{file} {index} {hashlib.sha256(data[offset : offset + size]).hexdigest()}"
        for file, data, places in ranges
        for index, (offset, size) in enumerate(zip(*places, strict=True))
    ]
    for rank in equal.outcomes:
        assert found(rank["ranges"]) == wanted
        assert {(dtype, shape[0]) for _, dtype, shape, _ in rank["ranges"]["tensors"]} == {("torch.uint8", 1)}


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


def test_no_shared_memory_is_left(equal: Served, failing: Outcomes) -> None:
    for rank in (*equal.outcomes, *failing):
        assert {name: outcome["mapped"] for name, outcome in rank.items() if outcome.get("mapped")} == {}


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


def test_a_rank_that_drops_its_iterator_ends_the_load_for_all_before_it_closes_its_streamer(failing: Outcomes) -> None:
    for outcome in others(failing, "drops", 3):
        assert "left before it had all tensors" in outcome["text"]


def test_a_rank_that_fails_in_what_is_no_read_tells_the_others_why(failing: Outcomes) -> None:
    assert "MemoryError: no room" in failing[2]["lands nowhere"]["text"]
    for outcome in others(failing, "lands nowhere", 2):
        assert "failed: StreamerError: reading failed unexpectedly: MemoryError: no room" in outcome["text"]


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


@pytest.mark.parametrize(
    ("name", "culprit", "kind"),
    [
        ("no path", 3, "ArgumentTypeError"),
        ("no device", 2, "ArgumentError"),
        ("no names", 0, "ArgumentTypeError"),
        ("no setting", 1, "ConfigError"),
        ("no timeout", 1, "ConfigError"),
        ("closed", 2, "StateError"),
    ],
)
def test_a_call_that_fails_on_one_rank_is_told_by_it_to_the_others(
    failing: Outcomes, name: str, culprit: int, kind: str
) -> None:
    assert failing[culprit][name]["error"] == kind
    for outcome in others(failing, name, culprit):
        assert f"rank {culprit} failed: {kind}: " in outcome["text"]


def test_a_call_that_fails_on_every_rank_is_each_ranks_own_error(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["closed on all"]["error"] == "StateError"
        assert rank["closed on all"]["threads"] == []


def test_a_forked_child_that_calls_its_parents_streamer_leaves_the_parents_connections_alone(folder: Path) -> None:
    outcomes = run(folder, 3, "forked")
    child = json.loads((folder / "child.json").read_text())
    assert (child["error"], "made before a fork" in child["text"]) == ("StateError", True)
    for rank in outcomes:
        assert found(rank["forked"]) == expected(LARGE)
        assert found(rank["afterwards"]) == expected(SMALL)


def test_files_whose_names_are_no_unicode_are_shared_and_their_failures_told(failing: Outcomes) -> None:
    for rank in failing:
        assert found(rank["a name that is no Unicode"]) == expected(LARGE)
    assert failing[1]["broken, of such a name"]["error"] == "ReadError"
    for outcome in others(failing, "broken, of such a name", 1):
        assert "ReadError" in outcome["text"]
        assert "n\\udcff.safetensors" in outcome["text"]


def test_a_rank_that_shares_nothing_waits_for_nobody_before_it_tells_of_its_settings(failing: Outcomes) -> None:
    for number, rank in enumerate(failing):
        outcome = rank["no timeout, where none is needed"]
        assert outcome.get("error") == ("ConfigError" if number == 1 else None)


def test_other_ranges_are_named(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["other ranges"]["ranks"] == [2]
        assert "ranges: " in rank["other ranges"]["text"]


def test_after_loads_that_failed_one_works(failing: Outcomes) -> None:
    for rank in failing:
        assert found(rank["afterwards"]) == expected(LARGE)
        assert rank["afterwards"]["threads"] == []


def test_a_streamer_whose_load_failed_on_all_ranks_loads_again(failing: Outcomes) -> None:
    for rank in failing:
        assert rank["fails"]["error"] == "DistributedError"
        assert found(rank["afterwards, with the same streamer"]) == expected(SMALL)


def test_failures_are_quick(failing: Outcomes) -> None:
    # Connections that are closed tell, long before the timeout of ten minutes: on a slow machine, too.
    for rank in failing:
        assert {name: outcome["seconds"] for name, outcome in rank.items() if outcome.get("seconds", 0) > 200} == {}


def test_a_rank_that_is_killed_is_named_by_the_others(folder: Path) -> None:
    outcomes = run(folder, 4, "killed")
    assert json.loads((folder / "codes.json").read_text())[KILLED] == -9
    for outcome in others(outcomes, "killed", KILLED):
        assert "died" in outcome["text"]
        assert (
            found(outcome | {"error": None} if False else {"tensors": outcome["tensors"]})
            == expected(LARGE)[: len(outcome["tensors"])]
        )


@pytest.mark.parametrize("program", ["killed_while_meeting", "killed_while_connecting"])
def test_a_rank_that_is_killed_while_the_ranks_meet_is_named_long_before_the_timeout(
    folder: Path, program: str
) -> None:
    # Of 600 s: `run` would not wait so long.
    for outcome in others(run(folder, 4, program), "meeting", KILLED):
        assert f"rank {KILLED} did not come, or ended before all had met" in outcome["text"]


@pytest.mark.parametrize(("program", "error"), [("interrupted", "KeyboardInterrupt"), ("terminated", "SystemExit")])
def test_a_signal_ends_a_rank_that_waits_for_another_and_all_ranks_at_once_and_leaves_nothing(
    folder: Path, program: str, error: str
) -> None:
    # Ctrl-C, and SIGTERM where it raises: torchrun sends it to the others when a rank has died.
    ranks = run(folder, 3, program)
    for name, text in (
        ("meeting", "ended before all had met"),
        ("opening", f"failed: {error}"),
        ("loop", f"failed: {error}"),
    ):
        if name not in ranks[1]:
            continue
        for outcome in others(ranks, name, 1):
            assert text in outcome["text"]
        assert ranks[1][name]["error"] == error
        assert [(outcomes[name]["threads"], outcomes[name]["mapped"]) for outcomes in ranks] == [([], 0)] * 3
    for outcomes in ranks:
        assert outcomes["all"]["error"] == error
        assert (outcomes["all"]["threads"], outcomes["all"]["mapped"]) == ([], 0)
        assert found(outcomes["afterwards"]) == expected(LARGE)


@pytest.mark.parametrize("program", ["half_gathered", "half_received", "half_sent"])
def test_a_rank_that_dies_while_a_message_is_half_way_is_named_at_once(folder: Path, program: str) -> None:
    survivor, _ = run(folder, 2, program)
    assert survivor["cut off"]["ranks"] == [KILLED]
    assert "died" in survivor["cut off"]["text"]
    assert "Timed out" not in survivor["cut off"]["cause"]


def test_a_rank_that_ends_a_load_waits_for_no_send_of_what_it_tells_the_others(folder: Path) -> None:
    told, teller = run(folder, 2, "sends_forgotten")
    assert told["ends"]["text"] == "rank 1 failed: on purpose"
    assert teller["ends"]["waited"] == 0


def test_a_rank_that_stands_still_or_never_comes_is_waited_for_no_longer_than_the_timeout(folder: Path) -> None:
    outcomes = run(folder, 3, "standing")
    for outcome in others(outcomes, "stands still", 0):
        assert f"took no part for {PATIENCE} s" in outcome["text"]
    assert "rank 0 took no part" in outcomes[0]["stands still"]["text"]
    for rank in (0, 2):
        assert outcomes[rank]["never comes"]["error"] == "DistributedError"
        assert f"did not meet within {PATIENCE} s" in outcomes[rank]["never comes"]["text"]


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


@pytest.fixture(scope="module")
def selecting(folder: Path) -> Outcomes:
    return run(folder, 4, "selecting")


def parts(tensors: dict[str, Stored], rank: int, ranks: int) -> list[str]:
    """What `expected` says of a part of each tensor: along its first dimension, or the second of "columns"."""
    made = {}
    for name, each in tensors.items():
        whole = np.frombuffer(each.data, np.uint8).reshape(*each.shape, -1)
        data = np.array_split(whole, ranks, 1 if name == "columns" else 0)[rank].tobytes()
        made[name] = each._replace(data=data)
    return expected(made)


def test_ranks_that_select_the_same_share_what_they_read(selecting: Outcomes) -> None:
    total = sum(len(each.data) for each in LARGE.values())
    for rank, outcomes in enumerate(selecting):
        assert found(outcomes["replicas"]) == parts(LARGE, rank % 2, 2) + parts(COLUMNS, rank % 2, 2)
    columns = sum(len(each.data) for each in COLUMNS.values())
    for outcomes in selecting:
        came = outcomes["replicas"]["report"]["shared"]
        assert came["bytes_read"] + came["bytes_alone"] == pytest.approx(sum(outcomes["replicas"]["read"]), rel=0.01)
        assert outcomes["replicas"]["report"]["bytes_read"] == pytest.approx((total + columns) / 2, rel=0.04)
    assert sum(sum(outcomes["replicas"]["read"]) for outcomes in selecting) == pytest.approx(total + columns, rel=0.01)
    assert max(sum(outcomes["replicas"]["read"]) for outcomes in selecting) < 0.3 * (total + columns)


def test_ranks_that_each_select_a_part_of_their_own_read_just_that(selecting: Outcomes) -> None:
    for rank, outcomes in enumerate(selecting):
        outcome = outcomes["each its own"]
        assert found(outcome) == parts(LARGE, rank, 4)
        assert sum(outcome["read"]) == pytest.approx(sum(len(each.data) for each in LARGE.values()) / 4, rel=0.01)


def test_a_rank_that_selects_nothing_reads_nothing_and_holds_up_nobody(selecting: Outcomes) -> None:
    total = sum(len(each.data) for each in LARGE.values())
    for rank, outcomes in enumerate(selecting):
        assert found(outcomes["one nothing"]) == ([] if rank == 2 else expected(LARGE))
        assert sum(outcomes["one nothing"]["read"]) <= (10_000 if rank == 2 else 0.5 * total)


def test_a_rank_that_fails_ends_the_load_of_those_that_select_the_same(selecting: Outcomes) -> None:
    assert selecting[1]["broken"]["error"] == "ReadError"
    assert "rank 1 failed: ReadError" in selecting[3]["broken"]["text"]
    for rank in (0, 2):
        assert found(selecting[rank]["broken"]) == parts(LARGE, 0, 2)
    for rank, outcomes in enumerate(selecting):
        assert any(f"ranks {rank % 2}, {rank % 2 + 2}, which" in line for line in outcomes["broken"]["lines"])


def test_a_selection_that_fails_on_one_rank_is_told_by_it_to_the_others(selecting: Outcomes) -> None:
    assert selecting[3]["no part"]["error"] == "ArgumentTypeError"
    for outcome in others(selecting, "no part", 3):
        assert "rank 3 failed: ArgumentTypeError" in outcome["text"]


def test_what_ranks_share_is_cast_while_it_lands(folder: Path) -> None:
    pytest.importorskip("numba")
    outcomes = run(folder, 2, "casting")
    wanted = []
    for name, each in FLOATS.items():
        data = bytearray(each.data)
        if each.dtype != "I64":
            floats = torch.frombuffer(data, dtype={"F32": torch.float32, "F16": torch.float16}[each.dtype])
            data = bytearray(floats.to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
        wanted.append(f"{name} {hashlib.sha256(data).hexdigest()}")
    for rank in outcomes:
        assert found(rank["unlimited"]) == found(rank["least memory"]) == wanted
        assert rank["one of them"]["error"] == "DistributedError"
        assert "dtype: " in rank["one of them"]["text"]
        assert found(rank["another concurrency"]) == wanted
        assert found(rank["another concurrency, as stored"]) == expected(FLOATS)


def test_what_ranks_share_lands_in_page_locked_memory(folder: Path) -> None:
    first, second = run(folder, 2, "page_locked")
    for rank in (first, second):
        assert found(rank["large"]) == expected(LARGE)
        assert rank["large"]["blocks"] > 1
    assert second["one cannot"]["error"] == "PinnedUnavailableError"
    assert first["one cannot"]["error"] == "DistributedError"
    assert "RUNAI_STREAMER_PINNED=1" in first["one cannot"]["text"]


@pytest.fixture(scope="module")
def without_gloo(folder: Path) -> Outcomes:
    try:
        emulator = {EMULATOR: str(build(folder, "emulator.so") / "emulator.so")}
    except NoCompilerError:
        emulator = {}
    return run(folder, 2, "without_gloo", **emulator)


def test_a_default_group_that_sends_no_host_memory_is_enough(without_gloo: Outcomes) -> None:
    for rank in without_gloo:
        assert found(rank["host"]) == expected(LARGE)


@pytest.fixture
def on_gpus(without_gloo: Outcomes) -> Outcomes:
    if any("device" not in rank for rank in without_gloo):
        pytest.skip("no C compiler for the emulated CUDA driver")
    return without_gloo


def test_what_ranks_share_goes_from_the_ring_to_their_gpus(on_gpus: Outcomes) -> None:
    for rank in on_gpus:
        assert found(rank["device"]) == found(rank["least memory"]) == expected(LARGE)
        assert rank["closed"]["wrong"] == []
        assert rank["device"]["mapped"] == rank["least memory"]["mapped"] == 0
        # The slots of both ranks for each load, and the landing's own, which the loads keep or make anew.
        assert rank["locked"]["count"] >= 2 * 2 + 1


def test_a_ring_that_cannot_be_page_locked_is_copied_from_once_more(on_gpus: Outcomes) -> None:
    for rank in on_gpus:
        assert found(rank["not locked"]) == expected(LARGE)
        assert sum("cannot be page-locked" in line for line in rank["not locked"]["lines"]) == 1


def test_a_slot_that_is_given_back_before_its_copies_have_run_is_found(on_gpus: Outcomes) -> None:
    # By what a kernel sees, or by the emulator: which of them is up to the other rank.
    for rank in on_gpus:
        assert rank["hasty"]["wrong"] or found(rank["hasty"]) != expected(LARGE)


def test_gpudirect_is_refused_where_ranks_share_what_they_read(on_gpus: Outcomes) -> None:
    for rank in on_gpus:
        assert rank["gpudirect"]["error"] in ("GdsUnavailableError", "DistributedError")
        assert "leave out is_distributed=True" in rank["gpudirect"]["text"]
