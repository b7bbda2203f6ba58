"""Recognises files of other formats by their first bytes, and says what to do with them."""

from collections.abc import Sequence
from typing import Final

_STARTS: Final[Sequence[tuple[bytes, str, str]]] = (
    (b"version ", "a Git LFS pointer, not the file itself", "run `git lfs pull`, or download the file"),
    (b"PK\x03\x04", "a zip archive, as PyTorch's .bin and .pt are", "convert it with safetensors.torch.save_file"),
    (b"\x80", "a Python pickle, as old PyTorch .bin files are", "convert it with safetensors.torch.save_file"),
    (b"GGUF", "a GGUF model", "this package reads safetensors only"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "convert it to safetensors"),
    (b"\x93NUMPY", "a NumPy .npy file", "convert it with safetensors.numpy.save_file"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"<", "HTML or XML, a server's page or error message", "look at its text, then download the file again"),
    (b"Entry no", "a server's answer (Entry not found)", "the name or revision that was downloaded does not exist"),
    (b"{", "JSON without its length in front (an index.json?)", "give the .safetensors files that it names"),
    (b"\0" * 8, "zeros, as an unfinished download leaves them", "download or copy it again"),
)


def recognise(start: bytes) -> tuple[str, str] | None:
    """Name the format of a file from its first 8 bytes, and what to do; None if it is unknown.

    Ask only when those bytes cannot be the length of a safetensors header, since any 8 bytes may be one.
    """
    for magic, what, remedy in _STARTS:
        if start.startswith(magic):
            return what, remedy
    return None
