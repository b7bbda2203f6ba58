"""Make the checkpoints that the benchmarks load, once, in the cache folder; a whole one is used again.

- `large`: bfloat16, Llama-2-7B's shapes, nine layers, 3.9 GB in two shards; the embedding (250 MiB, the largest
  tensor) is in the first shard only.
- `70b`: Llama-2-70B's shapes, 138 GB in 15 shards, for benchmarks.ceiling: sparse files, which take no disk.
- `many`: 50,000 tensors of 2 KiB in one file.
- `shards`: 163 files with 560 tensors of 1 KiB each, as many as DeepSeek-V3 has: what opening them takes.
- `odd`: 1 GB whose data start at an odd offset, with odd-sized tensors between wider dtypes, so that most tensors
  lie at offsets that do not suit their dtype.
- `tiny`: one small tensor, which each process loads untimed, so that lazy imports are outside the measured span.

    python -m benchmarks.checkpoints          # from the repository's root: make them all now
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Raised whenever what is written changes: older files in the cache folder are then made again.
VERSION = 1

ITEM_SIZES = {"U8": 1, "BF16": 2, "F32": 4, "F64": 8, "I64": 8}

# Data are one random block over and over. Its length is a prime near 16 MiB: no tensor, page or chunk size divides
# it, so a tensor read from the wrong place never has the right bytes.
PATTERN_BYTES = 16_777_259

HIDDEN, INTERMEDIATE, VOCABULARY = 4096, 11008, 32000
LAYERS_PER_SHARD = (4, 5)

SMALL = ("many", "shards")
"""Checkpoints whose time goes to tensors, not to bytes."""

SPARSE = ("70b",)
"""Checkpoints without data, for disks that move none."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One tensor to write: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor of a file: `start` is its first byte's offset in the file, `nbytes` its length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk: its files in load order."""

    name: str
    files: tuple[Path, ...]


def cache_folder() -> Path:
    """The folder that holds checkpoints and virtual environments between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "runai-model-streamer" / "bench"


def read_header(path: Path) -> list[Placed]:
    """The tensors of a safetensors file in file order (a reader of the benchmark's own, for checks and parameters)."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    placed = [
        Placed(name, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
        for name, entry in header.items()
        if name != "__metadata__"
        for begin, end in [entry["data_offsets"]]
    ]
    return sorted(placed, key=lambda tensor: tensor.start)


def _layer(index: int) -> Iterator[Spec]:
    prefix = f"model.layers.{index}"
    # By name, as safetensors' own writer orders tensors of one dtype.
    yield Spec(f"{prefix}.input_layernorm.weight", "BF16", (HIDDEN,))
    yield Spec(f"{prefix}.mlp.down_proj.weight", "BF16", (HIDDEN, INTERMEDIATE))
    yield Spec(f"{prefix}.mlp.gate_proj.weight", "BF16", (INTERMEDIATE, HIDDEN))
    yield Spec(f"{prefix}.mlp.up_proj.weight", "BF16", (INTERMEDIATE, HIDDEN))
    yield Spec(f"{prefix}.post_attention_layernorm.weight", "BF16", (HIDDEN,))
    for projection in "koqv":
        yield Spec(f"{prefix}.self_attn.{projection}_proj.weight", "BF16", (HIDDEN, HIDDEN))


def _large() -> list[list[Spec]]:
    first, second = LAYERS_PER_SHARD
    return [
        [Spec("model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN))]
        + [spec for index in range(first) for spec in _layer(index)],
        [spec for index in range(first, first + second) for spec in _layer(index)]
        + [Spec("model.norm.weight", "BF16", (HIDDEN,))],
    ]


def _llama_70b() -> list[list[Spec]]:
    # Unlike the 7B, its keys and values have fewer heads: 1024 rows.
    hidden, intermediate, few, shards = 8192, 28672, 1024, 15
    shapes = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, intermediate),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (few, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.v_proj": (few, hidden),
    }
    layers = [
        [Spec(f"model.layers.{index}.{name}.weight", "BF16", shape) for name, shape in shapes.items()]
        for index in range(80)
    ]
    found = [[spec for layer in layers[shard::shards] for spec in layer] for shard in range(shards)]
    found[0].insert(0, Spec("model.embed_tokens.weight", "BF16", (VOCABULARY, hidden)))
    found[-1] += [Spec("lm_head.weight", "BF16", (VOCABULARY, hidden)), Spec("model.norm.weight", "BF16", (hidden,))]
    return found


def _many() -> list[list[Spec]]:
    return [[Spec(f"model.layers.{i // 500}.experts.{i % 500}.scale", "BF16", (16, 64)) for i in range(50_000)]]


def _shards() -> list[list[Spec]]:
    return [
        [Spec(f"model.layers.{shard}.mlp.experts.{i}.down_proj.weight", "BF16", (8, 64)) for i in range(560)]
        for shard in range(163)
    ]


def _odd() -> list[list[Spec]]:
    specs = []
    for index in range(32):
        specs += [
            Spec(f"block.{index}.wide", "F64", (1 << 20,)),
            Spec(f"block.{index}.mask", "U8", (1001 + 2 * index,)),
            Spec(f"block.{index}.weight", "F32", (3 << 20,)),
            Spec(f"block.{index}.ids", "I64", (5,)),
            Spec(f"block.{index}.half", "BF16", (5 << 20,)),
        ]
    return [specs]


def _tiny() -> list[list[Spec]]:
    return [[Spec("weight", "F32", (16, 16))]]


LAYOUTS = {
    "large": _large,
    "70b": _llama_70b,
    "many": _many,
    "shards": _shards,
    "odd": _odd,
    "tiny": _tiny,
}


def _header(specs: list[Spec], *, odd_start: bool) -> bytes:
    entries = {}
    offset = 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return text + b" " if odd_start else text


def _write_pattern(file: BinaryIO, size: int) -> None:
    # Not for secrets: the same bytes on every machine.
    block = random.Random(3).randbytes(PATTERN_BYTES)
    while size:
        size -= file.write(memoryview(block)[: min(size, len(block))])


def _write(path: Path, specs: list[Spec], *, odd_start: bool, sparse: bool) -> None:
    partial = path.with_suffix(".partial")
    header = _header(specs, odd_start=odd_start)
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        data = sum(spec.nbytes for spec in specs)
        if sparse:
            file.truncate(file.tell() + data)
        else:
            _write_pattern(file, data)
        file.flush()
        # Dirty pages can be neither evicted nor read directly without being written first.
        os.fsync(file.fileno())
    partial.replace(path)


def make(name: str, folder: Path | None = None) -> Checkpoint:
    """The checkpoint `name`, written now unless the cache folder holds it whole."""
    target = (folder or cache_folder()) / "checkpoints" / f"{name}-v{VERSION}"
    target.mkdir(parents=True, exist_ok=True)
    shards = LAYOUTS[name]()
    files = []
    for index, specs in enumerate(shards, start=1):
        path = target / f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        odd_start = name == "odd"
        size = 8 + len(_header(specs, odd_start=odd_start)) + sum(spec.nbytes for spec in specs)
        if not path.exists() or path.stat().st_size != size:
            _write(path, specs, odd_start=odd_start, sparse=name in SPARSE)
        files.append(path)
    return Checkpoint(name, tuple(files))


if __name__ == "__main__":
    for layout in LAYOUTS:
        for shard in make(layout).files:
            print(f"{shard.stat().st_size:>13,}  {shard}")
