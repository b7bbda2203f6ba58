"""Every error is one of ours and one that existing code catches."""

import ast
import copy
import errno
import multiprocessing
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer import errors
from runai_model_streamer.errors import StreamerError, Where
from runai_model_streamer.ranges import ByteRange

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

OURS: dict[str, type[StreamerError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, StreamerError)
}
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
    other = pickle.loads(pickle.dumps(kind(MESSAGE)))
    assert (type(other), str(other)) == (kind, MESSAGE)


@every_class
def test_an_error_says_what_it_is_for(kind: type[Exception]) -> None:
    assert (kind.__doc__ or "").rstrip().endswith(".")
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


PLACE = Where("/models/m", ByteRange(0, 8))


def made(kind: type[StreamerError]) -> StreamerError:
    return kind("ends there", where=PLACE, remedy="download it again", tensor="a")


def copies(error: StreamerError) -> list[StreamerError]:
    return [pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)]


@every_class
def test_an_errors_message_is_made_of_its_parts(kind: type[StreamerError]) -> None:
    error = made(kind)
    assert str(error) == "/models/m: ends there; download it again"
    assert (error.problem, error.where, error.remedy, error.tensor) == ("ends there", PLACE, "download it again", "a")
    assert error.summary == "/models/m: ends there"
    assert error.args == (str(error),)


@every_class
def test_a_copy_of_an_error_has_every_part(kind: type[StreamerError]) -> None:
    error = made(kind)
    error.while_reading(["a", "b"])
    for each in copies(error):
        assert type(each) is kind
        assert (str(each), repr(each), vars(each)) == (str(error), repr(error), vars(error))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "it fails"),
        ({"where": "/m"}, "/m: it fails"),
        ({"remedy": "mend it"}, "it fails; mend it"),
        ({"remedy": "mend it", "sep": ": "}, "it fails: mend it"),
        ({"where": "/m", "lead": " "}, "/m it fails"),
        ({"where": "/m", "lead": None}, "it fails"),
        ({"tensor": "a"}, "it fails"),
    ],
)
def test_what_is_between_the_parts_can_be_chosen(parts: dict[str, Any], message: str) -> None:
    assert str(StreamerError("it fails", **parts)) == message


def test_a_path_will_do_for_a_place() -> None:
    assert StreamerError("it fails", where=Path("/m")).where == Where("/m")


@pytest.mark.parametrize(("names", "told"), [(["a"], "'a'"), (["a", "b", "c"], "'a' and 2 more")])
def test_tensors_that_a_read_was_for_come_last(names: list[str], told: str) -> None:
    error = made(errors.ReadError)
    error.while_reading(names)
    assert error.tensor == "a"
    assert str(error) == f"/models/m: ends there; download it again (while reading tensor {told})"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (errors.NotFoundError, errno.ENOENT),
        (errors.IsDirectoryError, errno.EISDIR),
        (errors.NotDirectoryError, errno.ENOTDIR),
        (errors.AccessDeniedError, errno.EACCES),
        (errors.StorageTimeoutError, errno.ETIMEDOUT),
        (errors.WriteDeniedError, errno.EACCES),
        (errors.ReadError, None),
        (errors.WriteError, None),
    ],
)
def test_an_os_error_has_the_errno_of_its_kind_and_the_path_as_its_file(
    kind: type[errors.ReadError | errors.WriteError], number: int | None
) -> None:
    error = kind("it fails", where=PLACE)
    for each in (error, *copies(error)):
        assert isinstance(each, OSError)
        assert (each.errno, each.filename) == (number, "/models/m")
        assert each.strerror == (number and os.strerror(number))
        assert str(each) == "/models/m: it fails"


def test_an_errno_that_is_given_counts_and_is_in_every_copy() -> None:
    for each in copies(errors.WriteDeniedError("it fails", errno=errno.EROFS)):
        assert isinstance(each, OSError)
        assert (each.errno, each.strerror) == (errno.EROFS, os.strerror(errno.EROFS))


def test_the_ranks_of_a_distributed_error_are_in_every_copy() -> None:
    error = errors.DistributedError("rank 3 died", (3,), remedy="look at its log")
    for each in (error, *copies(error)):
        assert isinstance(each, errors.DistributedError)
        assert (str(each), each.ranks) == ("rank 3 died; look at its log", (3,))


def test_an_error_comes_whole_out_of_a_worker_process() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        error = pool.apply_async(fail).get
        with pytest.raises(errors.TruncatedError) as caught:
            error()
    assert vars(caught.value) == vars(made(errors.TruncatedError))


def fail() -> None:
    raise made(errors.TruncatedError)


class Callers(errors.ReadError):
    """A class of code that knows only messages."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def test_a_subclass_that_knows_only_messages_works() -> None:
    for each in copies(Callers("it fails", 3)):
        assert isinstance(each, Callers)
        assert (str(each), each.problem, each.code, each.where, each.remedy) == ("it fails", "it fails", 3, None, "")


PACKAGE = Path(errors.__file__).parent


GLUED = re.compile(r"f['\"]{[^}]*\b(path|where)\b[^}]*}:? ")


def glued(source: str) -> list[str]:
    """Where a module puts a path into an error's problem alone, or changes the message of an error that exists."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in OURS and node.args:
            has_where = any(keyword.arg == "where" for keyword in node.keywords)
            if GLUED.match(ast.unparse(node.args[0])) and not has_where:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and node.attr == "args" and isinstance(node.ctx, ast.Store):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_path_of_an_error_is_a_part_of_its_own(module: Path) -> None:
    assert glued(module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'raise ReadError(f"{self.path}: cannot be read")',
        'raise errors.HeaderError(f"{path} is empty: download it again")',
        "error.args = (text,)",
    ],
)
def test_a_path_that_is_glued_to_the_problem_is_found(line: str) -> None:
    assert len(glued(line)) == 1
