"""Ranks of one node that share a load, against ranks that do not: `python -m benchmarks.ranks --ranks 2 4 8`.

The ranks are started once, as processes that meet over gloo, and load the same files in turns: each for itself (alone),
through shared memory (memory), and through sockets (sockets). A round ends when the last rank has all its tensors. The
page cache is brought into its state before each round, and that is checked. Prints a table of medians:

- seconds, and their ratio to the same ranks that do not share, and to one rank that loads alone
- CPU seconds of all ranks together for each GB of the files, and their ratio to the same ranks that do not share
- bytes that the disk was asked for, or that the store sent, in units of the files' size

Files are on the disk, or objects of nginx on loopback: `http`, or `slow30`, which gives each connection 30 MB/s, so
that ranks wait for the store, not for the CPUs that they share with it. `kept`: a rank keeps all its tensors.

The ranks of a node share its CPUs and its disk: figures count only where nothing else runs. With `--disk 0.5` they
share an emulated disk of 0.5 GB/s (benchmarks/ceiling), which other work on the machine hardly disturbs: then the table
says whether enough reads are in flight.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from benchmarks import caches
from benchmarks.ceiling import null_disk
from benchmarks.objects import server
from benchmarks.objects.measure import LOGGED_S, answers
from benchmarks.rounds import say
from benchmarks.tables import aligned
from runai_model_streamer.settings.environment import environment

WAYS: Final[Mapping[str, Mapping[str, str]]] = {
    "alone": {"RUNAI_STREAMER_DIST": "0"},
    "memory": {"RUNAI_STREAMER_DIST_FANOUT": "memory"},
    "sockets": {"RUNAI_STREAMER_DIST_FANOUT": "sockets"},
}
EMULATED: Final = "emulated"
"""The state of files on an emulated disk, which finds nothing cached."""
STORES: Final = ("http", "slow30")
"""States of files that are objects: names of nginx's servers."""
STATES: Final = tuple(f"{state}{kept}" for state in ("cold", "warm", *STORES) for kept in ("", " kept"))
TENSOR: Final = 8 << 20
"""Bytes of a tensor of the files that are made."""


@dataclass(slots=True)
class Measured:
    """Rounds of one way to load."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of all ranks together."""
    fetched: list[float] = field(default_factory=list)
    """Bytes that the disk was asked for, or that the store sent; nothing where that is not known."""


def _rank(rank: int, count: int, folder: str, device: str, pipe: Connection) -> None:
    """A rank: loads whenever it is told how, and says how long that took."""
    import torch
    import torch.distributed as dist

    from runai_model_streamer import SafetensorsStreamer

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{count} ranks", rank=rank, world_size=count)
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    for order in iter(pipe.recv, None):
        os.environ.update(order["environment"])
        kept: list[Any] = []
        dist.barrier()
        cpu, began = _cpu(), time.perf_counter()
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(order["files"], device=device, is_distributed=True)
            for _, tensor in streamer.get_tensors():
                if order["keep"]:
                    kept.append(tensor)
                del tensor
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            report = streamer.report
        for name in order["environment"]:
            del os.environ[name]
        assert report is not None
        shared = None if report.shared is None else report.as_dict()["shared"]
        pipe.send({"seconds": seconds, "cpu": _cpu() - cpu, "shared": shared})
        kept.clear()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Ranks:
    """Processes that load together."""

    def __init__(self, count: int, folder: str, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            arguments = (rank, count, folder, device, theirs)
            process = context.Process(target=_rank, args=arguments, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def load(self, files: Sequence[str], environment: Mapping[str, str], *, keep: bool) -> list[dict[str, Any]]:
        """One round; what each rank says."""
        for pipe in self._pipes:
            pipe.send({"files": list(files), "environment": dict(environment), "keep": keep})
        return [pipe.recv() for pipe in self._pipes]

    def close(self) -> None:
        """End them."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def make_files(folder: Path, size: int, *, sparse: bool = False) -> list[Path]:
    """Two safetensors files, `size` bytes together: of random bytes, or of holes."""
    files = []
    for number in range(2):
        count = max(size // 2 // TENSOR, 1)
        spans = [[index * TENSOR, (index + 1) * TENSOR] for index in range(count)]
        header = {
            f"{number}.{index}": {"dtype": "BF16", "shape": [TENSOR // 2], "data_offsets": span}
            for index, span in enumerate(spans)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = folder / f"model-{number}.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _ in range(0 if sparse else count):
                file.write(os.urandom(TENSOR))
            file.truncate(8 + len(text) + count * TENSOR)
        files.append(path)
    return files


class Place:
    """The files in one state.

    Args:
        files: on the disk.
        state: one of `STATES`, or `EMULATED`.
        endpoints: of a server of the files' folder, for states of `STORES`.
    """

    def __init__(self, files: Sequence[Path], state: str, endpoints: server.Endpoints | None) -> None:
        self._files = files
        self._name, _, kept = state.partition(" ")
        self.keep = bool(kept)
        """Whether tensors are kept."""
        self._log = endpoints.answers if endpoints is not None and self._name in STORES else None
        self.paths = list(map(str, files))
        """What the ranks load."""
        if endpoints is not None and self._log is not None:
            self.paths = [f"{endpoints.url(self._name)}/{server.BUCKET}/{file.name}" for file in files]

    def prepare(self) -> None:
        """Bring the page cache into the state."""
        if self._name != EMULATED:
            (caches.drop if self._name == "cold" else caches.warm)(self._files)

    def fetched(self) -> float | None:
        """Bytes that the disk was asked for, or that the store sent, since some moment; None if that is not known."""
        if self._log is not None:
            time.sleep(LOGGED_S)
            return sum(answers(self._log, 0)[1])
        return None if self._name == EMULATED else caches.disk_bytes_read(self._files[0])


def measure(
    counts: Sequence[int],
    files: Sequence[Path],
    states: Sequence[str],
    rounds: int,
    device: str,
    ways: Sequence[str],
    endpoints: server.Endpoints | None = None,
) -> Iterator[tuple[int, str, str, Measured]]:
    """Ranks, state, way, and what was measured; one rank first."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            ranks = Ranks(count, folder, device)
            for state in states:
                place = Place(files, state, endpoints)
                first = -1 if state == states[0] else 0  # the first loads of a process are not counted: they import
                found = {way: Measured() for way in (ways if count > 1 else ["alone"])}
                for number in range(first, rounds):
                    for way, measured in found.items():
                        place.prepare()
                        before = place.fetched()
                        said = ranks.load(place.paths, WAYS[way], keep=place.keep)
                        after = place.fetched()
                        if number < 0:
                            continue
                        measured.seconds.append(max(each["seconds"] for each in said))
                        measured.cpu.append(sum(each["cpu"] for each in said))
                        if before is not None and after is not None:
                            measured.fetched.append(after - before)
                        say(f"{count} ranks, {state}, {way}: {measured.seconds[-1]:.2f} s")
                for way, measured in found.items():
                    yield count, state, way, measured
            ranks.close()


def table(results: Sequence[tuple[int, str, str, Measured]], size: int) -> str:
    """All results, in markdown."""
    medians = {
        (count, state, way): (statistics.median(each.seconds), statistics.median(each.cpu))
        for count, state, way, each in results
    }
    rows = [
        (
            *("ranks", "state", "way", "seconds", "GB/s each", "of alone", "of one rank"),
            *("CPU s/GB", "CPU of alone", "fetched"),
        )
    ]
    for count, state, way, each in results:
        took, cpu = medians[count, state, way]
        alone, one = medians.get((count, state, "alone")), medians.get((1, state, "alone"))
        rows.append(
            (
                str(count),
                state,
                way,
                f"{took:.2f}",
                f"{size / took / 1e9:.2f}",
                f"{took / alone[0]:.2f}" if alone else "",
                f"{took / one[0]:.2f}" if one else "",
                f"{cpu / size * 1e9:.2f}",
                f"{cpu / alone[1]:.2f}" if alone else "",
                f"{statistics.median(each.fetched) / size:.2f}" if each.fetched else "",
            )
        )
    return aligned(rows, left=3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks (2 4); 1 is run, too")
    parser.add_argument("--files", type=Path, nargs="+", help="files to load; made if there are none")
    parser.add_argument("--size", type=float, default=4.0, help="GB of the files that are made (4)")
    parser.add_argument("--folder", type=Path, help="where they are made (a temporary folder)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: a GPU for each rank")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--states", nargs="+", default=["cold", "warm"], choices=STATES)
    parser.add_argument("--disk", type=float, help="GB/s of an emulated disk that the ranks share; its files are made")
    chosen = parser.parse_args(arguments)
    emulated = chosen.disk is not None
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder, ExitStack() as settings:
        if emulated:
            chosen.states, chosen.files = [EMULATED], None
            disk = null_disk.shared(null_disk.build(), chosen.disk, Path(folder) / "clock")
            settings.enter_context(environment(disk))  # of the ranks
        files = chosen.files or make_files(Path(folder), int(chosen.size * 1e9), sparse=emulated)
        size = sum(file.stat().st_size for file in files)
        counts = sorted({1, *chosen.ranks})
        endpoints = None
        if any(state.startswith(STORES) for state in chosen.states):
            if len({file.parent for file in files}) > 1:
                parser.error("files that are served as objects have to be in one folder")
            endpoints = settings.enter_context(server.nginx(files[0].parent, {}))
        found = measure(counts, files, chosen.states, chosen.rounds, chosen.device, chosen.ways, endpoints)
        print(table(list(found), size))


if __name__ == "__main__":
    main()
