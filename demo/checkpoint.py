"""A checkpoint with a real model's tensor names and shapes and random weights, made once and kept in a cache folder."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

_ELEMENT: Final = 2  # bytes of a bfloat16
_BLOCK: Final = 8 << 20
# A bfloat16 is sign, 8 bits of exponent, 7 of fraction. Without the exponent's top bit its magnitude is below 2: no
# infinity and no NaN, as in weights.
_BELOW_TWO: Final = np.uint64(0xBFFF_BFFF_BFFF_BFFF)


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes that give a decoder of Qwen2's architecture its tensors; all in elements."""

    title: str
    vocabulary: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int
    """Width of the keys, and of the values: heads of either, times the size of a head."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape, in the order in which model files keep them: by name."""
        hidden, wide, narrow = self.hidden, self.intermediate, self.key_value
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "mlp.down_proj.weight": (hidden, wide),
            "mlp.gate_proj.weight": (wide, hidden),
            "mlp.up_proj.weight": (wide, hidden),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.k_proj.bias": (narrow,),
            "self_attn.k_proj.weight": (narrow, hidden),
            "self_attn.o_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.v_proj.bias": (narrow,),
            "self_attn.v_proj.weight": (narrow, hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden),
            "model.norm.weight": (hidden,),
        }
        for index in range(self.layers):
            shapes.update({f"model.layers.{index}.{name}": shape for name, shape in layer.items()})
        return dict(sorted(shapes.items()))


QWEN2_5_0_5B: Final = Layout(
    "Qwen2.5-0.5B", vocabulary=151_936, layers=24, hidden=896, intermediate=4864, key_value=128
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Model files on disk."""

    files: tuple[Path, ...]
    tensors: int
    size: int
    """Bytes of all files."""
    made: bool
    """False when files of an earlier run were whole and are used again."""


def prepare(layout: Layout, folder: Path, shards: int = 2) -> Checkpoint:
    """Make the files that `folder` does not hold whole; at most 8 MiB of them are in memory at a time.

    Raises:
        OSError: the folder cannot be written, or its disk has too little space left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_split(layout.shapes(), shards))
    size = 0
    made = False
    files = []
    for number, shapes in enumerate(parts, 1):
        path = folder / f"model-{number:05}-of-{len(parts):05}.safetensors"
        header, data = _header(shapes)
        if not _is_whole(path, header, data):
            _write(path, header, data, seed=number)
            made = True
        size += len(header) + data
        files.append(path)
    return Checkpoint(tuple(files), tensors=sum(map(len, parts)), size=size, made=made)


def _split(shapes: dict[str, tuple[int, ...]], shards: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Runs of consecutive tensors, of about equal size in bytes."""
    share = sum(map(_bytes, shapes.values())) / shards
    part: dict[str, tuple[int, ...]] = {}
    passed = 0
    for name, shape in shapes.items():
        part[name] = shape
        passed += _bytes(shape)
        if shards > 1 and passed >= share:
            yield part
            part, passed, shards = {}, 0, shards - 1
    if part:
        yield part


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * _ELEMENT


def _header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The head of a safetensors file, its length prefix included, and the number of bytes of data behind it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + _bytes(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset


def _is_whole(path: Path, header: bytes, data: int) -> bool:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == len(header) + data and file.read(len(header)) == header
    except FileNotFoundError:
        return False


def _write(path: Path, header: bytes, data: int, seed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < len(header) + data:
        raise OSError(f"{path.parent} has {free / 1e9:.1f} GB left; the demo's file takes {data / 1e9:.1f} GB more")
    random = np.random.Generator(np.random.SFC64(seed))
    # Renamed when whole: what an interrupted run leaves is never taken for a checkpoint.
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(header)
        for start in range(0, data, _BLOCK):
            count = min(_BLOCK, data - start)
            words = random.integers(0, 2**64, size=-(-count // 8), dtype=np.uint64)
            words &= _BELOW_TWO
            file.write(words.data.cast("B")[:count])
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
