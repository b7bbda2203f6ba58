"""A program that uses every public name, for type checkers: nobody runs it.

tests/test_typing.py checks it with pyright, `make types` with mypy, and that no public name is missing here.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

import runai_model_streamer
from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    LoadReport,
    ObjectStorageModel,
    Progress,
    RunaiStreamerMemoryLimitException,
    S3Credentials,
    SafetensorsStreamer,
    StreamerConfig,
    StreamerError,
    TensorShard,
    TensorSlice,
    list_safetensors,
    load_file,
    plots,
    profiling,
    pull_files,
    release_staging_memory,
    safe_open,
)
from runai_model_streamer.errors import NotFoundError, Where
from runai_model_streamer.testing import StreamerPatcher

KEYS = S3Credentials(
    access_key_id="reader", secret_access_key="...", region_name="eu-central-1", endpoint="http://minio"
)

CONFIG = StreamerConfig(
    memory_limit="4GiB", chunk_bytesize=8 << 20, concurrency=32, direct_io="auto", verify=True, cache_dir=Path("/nvme")
)


def show(progress: Progress) -> None:
    print(progress.bytes / progress.total_bytes, progress.tensors, progress.total_tensors, progress.gb_per_second)


def part(name: str) -> TensorShard | TensorSlice | bool | None:
    if name.endswith("q_proj.weight"):
        return TensorShard(dim=0, rank=1, world_size=8)
    return TensorSlice(dim=0, start=0, stop=16) if "embed" in name else "experts" not in name


def load(parameters: dict[str, torch.Tensor]) -> LoadReport:
    with SafetensorsStreamer(config=CONFIG) as streamer:
        paths: list[str] = list_safetensors("s3://models/llama", KEYS, config=CONFIG)
        streamer.stream_files(
            [*paths, Path("model.safetensors")],
            s3_credentials=KEYS,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
            select=part,
            progress=show,
        )
        size: int = streamer.total_size
        for tensors in streamer.files_to_tensors_metadata.values():
            for info in tensors:
                print(size, info.name, info.dtype, list(info.shape), info.nbytes, info.offsets.start, info.offsets.end)
        arrived: Iterator[tuple[str, torch.Tensor]] = streamer.get_tensors()
        for name, tensor in arrived:
            parameters[name].copy_(tensor)
        streamer.stream_file("model.safetensors", device="cuda:0", is_distributed=True, tensor_names={"lm_head.weight"})
        streamer.stream_file("model.safetensors", select={"lm_head.weight": (0, 0, 16)}, progress=True)
        streamer.stream_file("model.safetensors", into=parameters)
        report: LoadReport = streamer.report
    release_staging_memory()
    return report


def read(report: LoadReport) -> dict[str, float | str | int | None]:
    shared = report.shared
    return {
        "speed": report.gb_per_second,
        "first": report.first_tensor_seconds,
        "from object storage": report.bytes_from.all,
        "settings": report.settings.memory_limit,
        "readers": report.reader_seconds.all,
        "took": None if shared is None else shared.bytes_taken,
        "verdict": report.verdict,
        "json": report.to_json(indent=2),
    }


def as_safetensors() -> torch.Tensor:
    tensors: dict[str, torch.Tensor] = load_file("model.safetensors", device="cpu", config=CONFIG)
    with safe_open("model.safetensors", framework="pt", device="cpu", config=CONFIG) as file:
        names: list[str] = file.keys()
        metadata: dict[str, str] | None = file.metadata()
        rows = file.get_slice(names[0])
        print(metadata, rows.get_shape(), rows.get_dtype(), file.get_tensors(), tensors)
        return torch.cat([file.get_tensor(names[0]), rows[:16]])


def ranges() -> None:
    chunks = [FileChunks(7, "s3://models/index.bin", offsets=[0, 4096], sizes=[100, 512])]
    for streamer in (FileStreamer(CONFIG), DistributedStreamer(config=StreamerConfig(dist_timeout=60))):
        with streamer:
            streamer.stream_files(chunks, credentials=KEYS)
            for file_id, index, tensor in streamer.get_chunks():
                print(file_id + index, tensor.shape)


def files() -> None:
    pull_files("s3://models/llama", Path("here"), ["*.json"], ("original/*",), KEYS, config=CONFIG)
    with ObjectStorageModel("s3://models/llama", "here", config=CONFIG) as model:
        model.pull_files(ignore_pattern=["*.safetensors"])
    patcher = StreamerPatcher(Path("fixtures"))
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_file(patcher.shim_list_safetensors("s3://models/llama")[0])
    patcher.shim_pull_files("s3://models/llama", "here")


def failures() -> str:
    try:
        load({})
    except RunaiStreamerMemoryLimitException as error:
        return error.tensor or error.remedy
    except NotFoundError as error:
        return str(error.filename)
    except StreamerError as error:
        where: Where | None = error.where
        return f"{error.problem} {where.path if where else ''} {error.summary}"
    return runai_model_streamer.__version__


def notebook(files: list[Path]) -> plots.Plot:
    profiling.evict(files)
    profiling.warm(files)
    print(profiling.cached_fraction(files[0]), profiling.measure_limit(files))
    measured: list[profiling.Measurement] = profiling.measure(
        files, concurrency=[4, 16], cache=["warm", "cold"], runs=3
    )
    with profiling.S3Server(files) as server:
        measured += profiling.measure({"S3": server})
    measured += profiling.measure_loaders(files)
    report = profiling.record(files, Path("trace.json"), cache="cold")
    figures = [plots.throughput(measured), plots.memory(measured), plots.comparison(measured)]
    figures += [plots.time_shares({"a load": report}), plots.latencies({"a load": "trace.json"})]
    return plots.timeline("trace.json") if measured[0].rate > 1 else figures[0]
