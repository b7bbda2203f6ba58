"""Every error is one of ours and one that existing code catches."""

import pickle

import pytest

from runai_model_streamer import errors
from runai_model_streamer.errors import StreamerError

BUILT_IN: dict[str, type[Exception]] = {
    "AccessDeniedError": PermissionError,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "ChecksumError": OSError,
    "ConfigError": ValueError,
    "CredentialsError": PermissionError,
    "CudaError": RuntimeError,
    "DistributedError": RuntimeError,
    "DeviceError": RuntimeError,
    "GdsUnavailableError": RuntimeError,
    "PinnedUnavailableError": RuntimeError,
    "HeaderError": ValueError,
    "InterruptedReadError": OSError,
    "IsDirectoryError": IsADirectoryError,
    "MissingDependencyError": ImportError,
    "NotDirectoryError": NotADirectoryError,
    "NotFoundError": FileNotFoundError,
    "OutOfMemoryError": MemoryError,
    "ReadError": OSError,
    "RunaiStreamerMemoryLimitException": MemoryError,
    "SourceChangedError": OSError,
    "StateError": RuntimeError,
    "StorageTimeoutError": TimeoutError,
    "StorageUnreachableError": ConnectionError,
    "StreamerError": Exception,
    "TruncatedError": EOFError,
    "UnsafeNameError": ValueError,
    "UnsupportedDtypeError": ValueError,
    "UnsupportedError": NotImplementedError,
    "WriteDeniedError": PermissionError,
    "WriteError": OSError,
}
"""Name of each class -> what code that knows nothing of us catches."""

OURS = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
every_class = pytest.mark.parametrize("kind", OURS.values(), ids=OURS)
MESSAGE = "/models/m: bytes 0-8: ends there"


def test_every_class_has_its_line_in_the_table() -> None:
    assert OURS.keys() == BUILT_IN.keys()


@every_class
def test_an_error_is_one_of_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, StreamerError)


@every_class
def test_an_error_is_one_that_existing_code_catches(kind: type[Exception]) -> None:
    assert issubclass(kind, BUILT_IN[kind.__name__])


@every_class
def test_what_the_original_raises_as_a_value_error_is_one(kind: type[Exception]) -> None:
    if issubclass(kind, errors.ReadError | errors.ArgumentTypeError):
        assert issubclass(kind, ValueError)


@every_class
def test_an_error_made_with_a_message_says_that_message(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        raise kind(MESSAGE)
    assert str(caught.value) == MESSAGE


@every_class
def test_an_error_comes_whole_out_of_another_process(kind: type[Exception]) -> None:
    copy = pickle.loads(pickle.dumps(kind(MESSAGE)))
    assert (type(copy), str(copy)) == (kind, MESSAGE)


@every_class
def test_an_error_says_what_it_is_for(kind: type[Exception]) -> None:
    assert (kind.__doc__ or "").endswith(".")
    assert kind.__doc__ != kind.__mro__[1].__doc__


@pytest.mark.parametrize(
    "name",
    [
        "AccessDeniedError",
        "CredentialsError",
        "InterruptedReadError",
        "IsDirectoryError",
        "NotFoundError",
        "SourceChangedError",
        "StorageTimeoutError",
        "StorageUnreachableError",
        "TruncatedError",
    ],
)
def test_what_goes_wrong_with_storage_is_a_read_error(name: str) -> None:
    assert issubclass(OURS[name], errors.ReadError)
