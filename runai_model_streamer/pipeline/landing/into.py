"""Copies tensors that have landed into tensors that exist, such as a model's parameters.

Each is copied whole, in the caller's thread, from the memory that it landed in. Readers do not write into the caller's
tensors: a read that fails halfway would leave one half old and half new, and a direct read needs memory that is aligned
to the disk's blocks, which a parameter's is not.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, StreamerError
from runai_model_streamer.pipeline.landing.assembly import CARRIERS
from runai_model_streamer.pipeline.landing.tensors import Tensors, torch_shape, torch_type
from runai_model_streamer.pipeline.plan.casts import as_cast
from runai_model_streamer.pipeline.plan.request import listed, places_of
from runai_model_streamer.pipeline.tally.load import Tally

Into: TypeAlias = Mapping[str, torch.Tensor]
"""Name of a tensor in the files -> the tensor that gets its values."""


def device_of(into: Into) -> torch.device:
    """Return the device that all tensors of `into` are on.

    Raises:
        ArgumentError: `into` is empty, or its tensors are on several devices, or on none.
        ArgumentTypeError: it is not a mapping from names to tensors.
    """
    if not isinstance(into, Mapping):
        raise ArgumentTypeError(
            f"into is a mapping from names to tensors, not {type(into).__name__}",
            remedy="pass model.state_dict(), or dict(model.named_parameters())",
        )
    for name, tensor in into.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ArgumentTypeError(f"into maps names to tensors, not {name!r} to {type(tensor).__name__}")
    devices = sorted({str(tensor.device) for tensor in into.values()})
    if not devices:
        raise ArgumentError("into is empty", remedy="name the tensors to fill", sep=": ")
    if devices == ["meta"]:
        raise ArgumentError(
            "the tensors of into are on the device meta, which holds no bytes",
            remedy="give them memory first: model.to_empty(device=...)",
        )
    if len(devices) > 1:
        raise ArgumentError(
            f"the tensors of into are on {' and '.join(devices)}",
            remedy="make a call for each device, with the names of its tensors as tensor_names",
        )
    return torch.device(devices[0])


def check_into(
    into: Into, paths: Sequence[str], tensors: Sequence[Sequence[TensorInfo]], target: str | None, named: bool
) -> None:
    """Check that each tensor that will come has one in `into` that can hold it, and that no other is left out.

    Args:
        into: what to fill.
        paths: the files, for messages.
        tensors: what will come of each file.
        target: the format's name of the dtype that they are cast to; None to leave them.
        named: whether the caller chose the tensors by name. If not, all of `into` has to be filled. What shares its
            memory with a tensor that comes is filled with it, as tied weights are.

    Raises:
        ArgumentError: a name, shape, dtype or layout does not fit. Nothing has been changed.
    """
    coming = places_of(paths, tensors)
    for name, places in coming.items():
        if len(places) > 1:
            raise ArgumentError(
                f"tensor {name!r} is in {' and in '.join(places)}: into can hold one of them",
                remedy="leave one of the files out",
                tensor=name,
            )
    unknown = [name for name in coming if name not in into]
    if unknown:
        raise ArgumentError(
            f"into has no tensor for {listed(unknown)}",
            where=coming[unknown[0]][0],
            remedy="pass the names to read as tensor_names",
            tensor=unknown[0],
        )
    for path, infos in zip(paths, tensors, strict=True):
        for info in infos:
            _check_tensor(into[info.name], info if target is None else as_cast(info, target), info, path)
    if not named:
        filled = {_memory(into[name]) for name in coming}
        left = [name for name, tensor in into.items() if name not in coming and _memory(tensor) not in filled]
        if left:
            raise ArgumentError(
                f"into has tensors that none of the {len(paths)} files has: {listed(left)}",
                remedy="leave them out of into",
                tensor=left[0],
            )


def _memory(tensor: torch.Tensor) -> tuple[object, ...]:
    # Storages that are empty all have the address 0.
    address = tensor.data_ptr() if tensor.numel() else id(tensor)
    return address, tensor.shape, tensor.stride(), tensor.dtype


def _check_tensor(tensor: torch.Tensor, coming: TensorInfo, stored: TensorInfo, path: str) -> None:
    problem = remedy = ""
    shape, dtype = torch_shape(coming), torch_type(coming)
    if hasattr(tensor, "to_local"):
        problem, remedy = "is a DTensor", "pass its to_local(), and what it holds of the whole as select"
    elif tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        problem, remedy = "is not a plain strided tensor", "pass one that is"
    elif any(not stride and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        problem, remedy = "has elements that share memory, as expand makes them", "pass a tensor of its own memory"
    elif tuple(tensor.shape) != shape:
        problem = f"has shape {list(tensor.shape)}, and what is loaded has {list(shape)}"
        remedy = "a part of a tensor is loaded with select"
    elif tensor.dtype != dtype:
        problem = f"has dtype {tensor.dtype}, and what is loaded has {dtype}"
        remedy = (
            f"dtype={tensor.dtype} casts while reading"
            if coming.dtype == stored.dtype
            else "tensors to cast and tensors to leave take two calls, with tensor_names"
        )
    if problem:
        raise ArgumentError(f"into[{stored.name!r}] {problem}", where=path, remedy=remedy, tensor=stored.name)


def placed(landed: Tensors, into: Into, tally: Tally) -> Tensors:
    """Copy each tensor into that of `into`, and yield the latter.

    What landed is dropped before its tensor is yielded, so that its memory can be used again.

    Args:
        landed: what the load brings; closed when this iterator is.
        into: what to fill, as `check_into` has checked it.
        tally: counts the time.

    Raises:
        StreamerError: that of the load. A note on it says which tensors have their new values.
    """
    last, count = None, 0
    try:
        for name, tensor in landed:
            began = time.perf_counter()
            filled = into[name]
            _copy(tensor, filled)
            del tensor
            last, count = name, count + 1
            tally.seconds.place += time.perf_counter() - began
            yield name, filled
    except StreamerError as error:
        done = f"{count} of {len(into)} tensors of into have their new values" + (f", up to {last!r}" if count else "")
        error.add_note(f"{done}. The others have the old ones.")
        raise
    finally:
        landed.close()


def _copy(tensor: torch.Tensor, filled: torch.Tensor) -> None:
    # By a dtype of the same width: torch cannot copy all dtypes. Only inference mode may change a tensor made in it.
    carrier = CARRIERS[tensor.itemsize]
    with torch.inference_mode(filled.is_inference()), torch.no_grad():
        filled.detach().view(carrier).copy_(tensor.view(carrier))
