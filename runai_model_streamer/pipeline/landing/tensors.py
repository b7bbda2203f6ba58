"""Makes torch tensors of bytes that have landed."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo, torch_dtype
from runai_model_streamer.errors import UnsupportedDtypeError
from runai_model_streamer.pipeline.memory.slabs import Bytes, Root
from runai_model_streamer.pipeline.plan.groups import Group

BATCH: Final = 64
"""Tensors made at once.

Python's garbage collector runs after a number of new objects, and looks through all of torch's. With many thousands of
new tensors it would do so again and again: 7 microseconds a tensor instead of 2.
"""

_ARRAY_DIMENSIONS: Final = 32
"""Dimensions that an array can have in every NumPy. Tensors of the format, and of torch, may have more."""


class _Layout(NamedTuple):
    """How the bytes of one dtype of the format become a tensor."""

    carrier: np.dtype[Any]
    """A NumPy dtype of the same width."""
    dtype: torch.dtype
    viewed: bool
    """Whether NumPy lacks the dtype, so that torch must view the carrier as it."""
    per_element: int = 1
    """Numbers of the format in one element of torch's dtype: 2 for packed 4-bit floats."""
    width: int = 1
    """Bytes of one element of the carrier."""


def _layouts() -> dict[str, _Layout]:
    carriers = {
        "?": "BOOL",
        "u1": "U8 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F4",
        "i1": "I8",
        "<i2": "I16 BF16 U16",
        "<f2": "F16",
        "<i4": "I32 U32",
        "<f4": "F32",
        "<i8": "I64 U64",
        "<f8": "F64",
        "<c8": "C64",
    }
    known = {}
    for carrier, names in carriers.items():
        plain, *viewed = names.split()  # of the first, torch's dtype is also NumPy's
        for name in (plain, *viewed):
            dtype = torch_dtype(name)
            if dtype is not None:
                per_element = 2 if name == "F4" else 1
                width = np.dtype(carrier).itemsize
                known[name] = _Layout(np.dtype(carrier), dtype, name != plain, per_element, width)
    return known


_LAYOUTS: Final = _layouts()

TorchForm: TypeAlias = tuple[tuple[int, ...], torch.dtype]
"""The shape and dtype of a tensor, as torch has them."""


def check_dtypes(path: str, tensors: Iterable[TensorInfo]) -> None:
    """Check that torch can hold every tensor.

    Raises:
        UnsupportedDtypeError: torch lacks the dtype, or packs it in a way that the shape does not allow.
    """
    plain = {name for name, layout in _LAYOUTS.items() if layout.per_element == 1}
    for tensor in tensors:
        if tensor.dtype not in plain:
            _check_unusual(path, tensor)


def _check_unusual(path: str, tensor: TensorInfo) -> None:
    layout = _LAYOUTS.get(tensor.dtype)
    if layout is None:
        raise UnsupportedDtypeError(
            f"tensor {tensor.name!r} has dtype {tensor.dtype}, for which torch {torch.__version__} has none",
            where=path,
            tensor=tensor.name,
            remedy="leave it out with tensor_names, or use a torch that has it",
        )
    if not tensor.shape or tensor.shape[-1] % layout.per_element:
        raise UnsupportedDtypeError(
            f"tensor {tensor.name!r} of dtype {tensor.dtype} has shape {list(tensor.shape)}; torch packs "
            f"{layout.per_element} numbers in an element, so its last dimension must be a multiple of that",
            where=path,
            tensor=tensor.name,
        )


def tensor_of(info: TensorInfo, landed: torch.Tensor) -> torch.Tensor:
    """Return a tensor over all bytes of `landed`, which hold nothing else and are aligned for its dtype.

    The tensor is not a view of `landed`: autograd forbids to change a view in place with values that need a gradient.
    """
    layout, shape = _LAYOUTS[info.dtype], torch_shape(info)
    # The caller may be in inference mode; see `make_tensors`.
    with torch.inference_mode(False), torch.no_grad():
        tensor = torch.empty(0, dtype=layout.dtype, device=landed.device)
        position = landed.storage_offset() // layout.width
        return tensor.set_(landed.untyped_storage(), position, shape)  # type: ignore[call-overload,no-any-return]  # strides may be left out


def empty_tensor(info: TensorInfo, device: torch.device) -> torch.Tensor:
    """Make a tensor without elements."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty(torch_shape(info), dtype=_LAYOUTS[info.dtype].dtype, device=device)


def torch_shape(info: TensorInfo) -> tuple[int, ...]:
    """Return the shape as torch counts it: packed numbers are one element."""
    per_element = _LAYOUTS[info.dtype].per_element
    return info.shape if per_element == 1 else (*info.shape[:-1], info.shape[-1] // per_element)


def torch_type(info: TensorInfo) -> torch.dtype:
    """Return torch's dtype for the tensor."""
    return _LAYOUTS[info.dtype].dtype


def torch_forms(tensors: Iterable[TensorInfo]) -> list[TorchForm]:
    """Return the forms of tensors, without a Python frame for each."""
    layouts = _LAYOUTS
    return [
        (tensor.shape if layout.per_element == 1 else torch_shape(tensor), layout.dtype)
        for tensor in tensors
        for layout in (layouts[tensor.dtype],)
    ]


def make_tensors(group: Group, root: Root | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Make the tensors of a group whose bytes have all landed in `root`, in file order, one batch at a time.

    Each tensor keeps `root` alive. If `root` is an array, each has a storage of its own over its bytes, so that saving,
    copying or changing one in place never touches its neighbours. If `root` is a tensor, they share its storage, which
    is how torch recognises page-locked memory; each has its own version counter. A tensor that is not aligned for its
    dtype is copied. All are contiguous and writable, on the CPU, and do not require grad.
    """
    for part in group.parts:
        shift = part.position - part.offset
        for first in range(0, len(part.tensors), BATCH):
            # Tensors made in the caller's inference mode could never be trained.
            with torch.inference_mode(False), torch.no_grad():
                tensors = part.tensors[first : first + BATCH]
                if isinstance(root, torch.Tensor):
                    batch = _make_sharing(tensors, shift, root)
                else:
                    batch = _make_alike(tensors, shift, root) or _make(tensors, shift, root)
            yield batch


def _make_alike(tensors: Sequence[TensorInfo], shift: int, root: Bytes | None) -> list[tuple[str, torch.Tensor]] | None:
    """Make tensors of one form that lie side by side, as the rows of one array. Return None for any others.

    Many thousands of small tensors are mostly so. Passes in C take three quarters of the time of a loop over them.
    """
    first, count = tensors[0], len(tensors)
    size, layout, position = first.end - first.start, _LAYOUTS[first.dtype], first.start + shift
    if count == 1 or not size or tensors[-1].end - first.start != count * size or position % layout.width:
        return None
    names, dtypes, shapes, _, _, _ = zip(*tensors, strict=True)
    shape = first.shape
    if dtypes.count(first.dtype) < count or len(set(map(tuple, shapes))) > 1:
        return None
    if layout.per_element > 1 or not 0 < len(shape) < _ARRAY_DIMENSIONS:
        return None
    made: Iterable[torch.Tensor] = map(torch.from_numpy, np.ndarray((count, *shape), layout.carrier, root, position))
    if layout.viewed:
        made = map(torch.Tensor.view, made, repeat(layout.dtype))
    return list(zip(names, made, strict=True))


def _make(tensors: Iterable[TensorInfo], shift: int, root: Bytes | None) -> list[tuple[str, torch.Tensor]]:
    made: list[tuple[str, torch.Tensor]] = []
    # Looking these up once, and a loop without calls, saves a sixth of the time for 50,000 small tensors.
    add, array, wrap, layouts = made.append, np.ndarray, torch.from_numpy, _LAYOUTS
    for name, dtype_name, shape, start, end, _ in tensors:
        carrier, dtype, viewed, per_element, width = layouts[dtype_name]
        if per_element > 1:
            shape = (*shape[:-1], shape[-1] // per_element)  # noqa: PLW2901 - torch's shape
        position = start + shift
        if start == end:
            tensor = torch.empty(shape, dtype=dtype, device="cpu")
        elif position % width or len(shape) > _ARRAY_DIMENSIONS:
            unaligned = array((end - start,), np.uint8, root, position)
            tensor = wrap(unaligned.copy()).view(dtype).view(shape)
        elif viewed:
            tensor = wrap(array(shape, carrier, root, position)).view(dtype)
        else:
            tensor = wrap(array(shape, carrier, root, position))
        add((name, tensor))
    return made


def _make_sharing(tensors: Iterable[TensorInfo], shift: int, root: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    made: list[tuple[str, torch.Tensor]] = []
    storage = root.untyped_storage()
    for info in tensors:
        layout, shape = _LAYOUTS[info.dtype], torch_shape(info)
        tensor = torch.empty(0, dtype=layout.dtype, device="cpu")
        position = info.start + shift
        if info.start == info.end:
            tensor = tensor.view(shape)
        elif position % layout.width:
            tensor = root[position : info.end + shift].clone().view(layout.dtype).view(shape)
        else:
            # Not a view of root: autograd would forbid to change it in place.
            tensor.set_(storage, position // layout.width, shape)  # type: ignore[call-overload]  # strides may be left out
        made.append((info.name, tensor))
    return made


def map_code() -> None:
    """Make one tensor and drop it, so that torch's code for it is in memory before readers keep the disk busy.

    After a cold start that code is still on the disk. Its page faults would wait behind all reads in flight with the
    GIL held, which readers need: the first tensor would come after 315 ms instead of 206 (benchmarks/RUNS.md). When the
    code is in memory, this takes microseconds.
    """
    _make([TensorInfo("", "BF16", (1,), 0, 2, 0)], 0, np.zeros(2, np.uint8))


Tensors: TypeAlias = Generator[tuple[str, torch.Tensor]]
"""An iterator over names and tensors."""
