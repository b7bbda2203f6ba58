"""Torch's operators on the emulated device, where no kernel runs: the CPU does what they do.

    install()       # once, after `import torch`; it touches no device

Allocations, views, fills, `_sleep` and copies between like tensors are torch's own, in stream order, and late. Every
other operator waits for the current stream, computes on CPU tensors that lie over the device's bytes, and hands the
result back. So it is never late: tests of order use the former.
"""

import ctypes
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch

_OWN: Final = frozenset(
    {
        "empty.memory_format",
        "empty_strided",
        "as_strided",
        "view",
        "view.dtype",
        "unfold",
        "resize_",
        "set_.source_Storage",
        "set_.source_Tensor",
        "set_.source_Storage_storage_offset",
        "set_",
        "_local_scalar_dense",
        "record_stream",
        "is_pinned",
        "_pin_memory",
        "fill_.Scalar",
        "zero_",
        "copy_",
        "_reshape_alias",
        "alias",
        "detach",
        "_to_copy",
        "clone",
        "_copy_from",
        "_copy_from_and_resize",
        "is_set_to",
        "view_as_real",
        "view_as_complex",
        "real",
        "imag",
        "_conj",
        "_neg_view",
    }
)
"""What torch does itself: memory, views, copies and fills."""

_installed: list[torch.library.Library] = []


def install() -> None:
    """Put the CPU behind every operator that torch registers for CUDA, but its own. Idempotent."""
    if _installed:
        return
    library = torch.library.Library("aten", "IMPL")
    _installed.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each of them says that it replaces a kernel
        library.impl("copy_", _copy_, "CUDA", with_keyset=True)
        library.impl("fill_.Scalar", _fill_, "CUDA", with_keyset=True)
        for registered in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA"):  # noqa: SLF001
            namespace, _, name = registered.rpartition("::")
            if namespace in ("", "aten") and name not in _OWN:
                _replace(library, name)


def _replace(library: torch.library.Library, name: str) -> None:
    packet, _, overload = name.partition(".")
    try:
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    except AttributeError:  # registered without a schema
        return
    # A view of its argument is torch's own business.
    if any(result.alias_info and not result.alias_info.is_write for result in operator._schema.returns):  # noqa: SLF001
        return
    library.impl(name, _on_the_cpu(operator), "CUDA")


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the same bytes as one on the device. Nothing is waited for."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty(tensor.size(), dtype=tensor.dtype, device="cpu")
    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
    return empty.set_(whole, tensor.storage_offset(), tensor.size(), tensor.stride())


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """An argument, or a result, with each tensor and device in it changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return change(value) if isinstance(value, (torch.Tensor, torch.device)) else value


class _Call:
    """One call of an operator: its tensors on the device, and what lies over them on the host."""

    def __init__(self) -> None:
        self._pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Size]] = []

    def to_host(self, value: torch.Tensor | torch.device) -> torch.Tensor | torch.device:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if value.device.type != "cuda":
            return value
        if not self._pairs:
            torch.cuda.current_stream(value.device).synchronize()
        host = bytes_of(value)
        self._pairs.append((host, value, host.shape))
        return host

    def to_device(self, value: torch.Tensor | torch.device) -> torch.Tensor | torch.device:
        if isinstance(value, torch.device):
            return value
        for host, tensor, _ in self._pairs:
            if value is host:
                return tensor
        index = self._pairs[0][1].device.index if self._pairs else torch.cuda.current_device()
        return value.to(torch.device("cuda", index))

    def resize(self) -> None:
        """An `out=` that the operator made larger has got memory of the host's."""
        for host, tensor, before in self._pairs:
            if host.shape != before:
                tensor.resize_(host.shape).copy_(host)


def _on_the_cpu(operator: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        call = _Call()
        positional = _mapped(arguments, call.to_host)
        result = operator(*positional, **{name: _mapped(value, call.to_host) for name, value in named.items()})
        call.resize()
        return _mapped(result, call.to_device)

    return run


_own_copy = torch.library.get_kernel("aten::copy_", "CUDA") if torch.version.cuda else None
_own_fill = torch.library.get_kernel("aten::fill_.Scalar", "CUDA") if torch.version.cuda else None


def _copy_(keys: Any, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Torch's own where it is a copy of bytes; what takes a kernel there is done by the CPU."""
    alike = (
        target.dtype == source.dtype
        and target.shape == source.shape
        and target.is_contiguous()
        and source.is_contiguous()
        and target.is_conj() == source.is_conj()
    )
    if alike or not target.numel():
        assert _own_copy is not None
        copied: torch.Tensor = _own_copy.call_boxed(keys, target, source, non_blocking)
        return copied
    for tensor in (target, source):
        if tensor.device.type == "cuda":
            torch.cuda.current_stream(tensor.device).synchronize()
    to, from_ = (bytes_of(tensor) if tensor.device.type == "cuda" else tensor for tensor in (target, source))
    to.copy_(from_)
    return target


def _fill_(keys: Any, tensor: torch.Tensor, value: Any) -> torch.Tensor:
    """Torch's own where all of the memory is filled; the runtime knows no kernel that leaves out some."""
    if tensor.is_contiguous():
        assert _own_fill is not None
        filled: torch.Tensor = _own_fill.call_boxed(keys, tensor, value)
        return filled
    torch.cuda.current_stream(tensor.device).synchronize()
    bytes_of(tensor).fill_(value)
    return tensor
