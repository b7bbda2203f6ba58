"""What callers do with a load onto a device, one function each. Each returns the names of tensors that came out wrong.

`test_scenarios.py` runs all of them with each of torch's allocators, on one device and on the second of two.
"""

import copy
import gc
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer, TensorSlice
from tests.checkpoints import Stored, raw
from tests.torch_cuda.loads import cloned, load, mapped, sleep, wrong

KIB: Final = 1 << 10


class Place(NamedTuple):
    """Where a scenario loads from, and onto what."""

    path: Path
    device: torch.device


def _numbers(size: int, seed: int) -> bytes:
    return (np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed << 24)).tobytes()[:size]


def _files() -> dict[str, Stored]:
    """More than four groups where a load has the 256 KiB of `test_scenarios`, and some of odd kinds."""
    sizes = [40 * KIB + 8 * index for index in range(24)]
    large = {f"t{index}": Stored("U8", (size,), _numbers(size, index)) for index, size in enumerate(sizes)}
    odd = {
        "empty": Stored("F16", (0, 7), b""),
        "scalar": Stored("I32", (), _numbers(4, 90)),
        "rows": Stored("I64", (30, 40), _numbers(9600, 91)),
        "large": Stored("U8", (240_001,), _numbers(240_001, 92)),
    }
    return large | odd


FILES: Final = _files()

Scenario = Callable[[Place], list[str]]
SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(function: Scenario) -> Scenario:
    """Register it by its name."""
    SCENARIOS[function.__name__] = function
    return function


def wrong_of(made: Mapping[str, torch.Tensor], place: Place) -> list[str]:
    """Names of what is not as it is in the file, once all work is done."""
    torch.cuda.synchronize(place.device)
    return wrong(made, place.device, FILES)


def taken(place: Place, change: Callable[[torch.Tensor], Any], **options: Any) -> dict[str, Any]:
    """What becomes of each tensor, which is dropped at once."""
    return mapped(place.path, change, place.device, **options)


def side(place: Place) -> torch.cuda.Stream:
    """A stream that is not the current one."""
    return torch.cuda.Stream(place.device)


# Kept and dropped.


@scenario
def kept(place: Place) -> list[str]:
    return wrong_of(load(place.path, place.device), place)


@scenario
def kept_twice(place: Place) -> list[str]:
    first = load(place.path, place.device)
    return wrong_of(load(place.path, place.device), place) + wrong_of(first, place)


@scenario
def dropped_and_loaded_again(place: Place) -> list[str]:
    load(place.path, place.device).clear()
    return wrong_of(load(place.path, place.device), place)


@scenario
def each_dropped_after_its_bytes_were_read(place: Place) -> list[str]:
    found = taken(place, lambda tensor: raw(tensor.cpu()))
    return [name for name, each in FILES.items() if found[name] != each.data]


@scenario
def every_second_one_kept(place: Place) -> list[str]:
    made = taken(place, lambda tensor: tensor if tensor.numel() % 16 == 0 else cloned(tensor))
    return wrong_of(made, place)


@scenario
def dropped_in_the_opposite_order(place: Place) -> list[str]:
    loaded = load(place.path, place.device)
    copies = {}
    for name in reversed(list(loaded)):
        copies[name] = cloned(loaded.pop(name))
    return wrong_of(copies, place)


@scenario
def cloned_late_and_dropped(place: Place) -> list[str]:
    return wrong_of(taken(place, cloned), place)


@scenario
def copied_into_parameters(place: Place) -> list[str]:
    parameters = {name: torch.empty_like(tensor) for name, tensor in load(place.path, place.device).items()}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        for name, tensor in streamer.get_tensors():
            sleep()
            parameters[name].copy_(tensor)
            del tensor
    return wrong_of(parameters, place)


@scenario
def copied_to_the_host_late(place: Place) -> list[str]:
    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        sleep()
        return tensor.to("cpu", non_blocking=True)

    found = taken(place, to_host)
    torch.cuda.synchronize(place.device)
    return [name for name, each in FILES.items() if raw(found[name]) != each.data]


@scenario
def after_fills_of_memory_that_was_freed(place: Place) -> list[str]:
    for _ in range(4):
        sleep()
        torch.empty(400_000, dtype=torch.uint8, device=place.device).fill_(7)
    return wrong_of(load(place.path, place.device), place)


@scenario
def before_fills_of_memory_that_it_freed(place: Place) -> list[str]:
    copies = taken(place, cloned)
    filled = [torch.empty(60_000, dtype=torch.uint8, device=place.device).fill_(9) for _ in range(20)]
    return wrong_of(copies, place) + wrong_fills(filled, 9)


def wrong_fills(filled: Iterable[torch.Tensor], value: int) -> list[str]:
    """Say which of these is not all of one value."""
    return [f"fill {index}" for index, each in enumerate(filled) if set(raw(each.cpu())) != {value}]


@scenario
def with_the_cache_emptied_between_tensors(place: Place) -> list[str]:
    def emptied(tensor: torch.Tensor) -> torch.Tensor:
        torch.cuda.empty_cache()
        return tensor

    return wrong_of(taken(place, emptied), place)


# Streams.


@scenario
def on_a_side_stream(place: Place) -> list[str]:
    with torch.cuda.stream(side(place)):
        return wrong_of(taken(place, cloned), place)


@scenario
def kept_on_a_side_stream(place: Place) -> list[str]:
    with torch.cuda.stream(side(place)):
        return wrong_of(load(place.path, place.device), place)


@scenario
def begun_on_a_side_stream_and_taken_on_the_default_one(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        with torch.cuda.stream(side(place)):
            streamer.stream_files([str(place.path)], device=str(place.device))
        return wrong_of({name: cloned(tensor) for name, tensor in streamer.get_tensors()}, place)


@scenario
def begun_on_the_default_stream_and_taken_on_a_side_one(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        with torch.cuda.stream(side(place)):
            return wrong_of({name: cloned(tensor) for name, tensor in streamer.get_tensors()}, place)


def _in_turn(place: Place, count: int) -> list[str]:
    streams = [side(place) for _ in range(count)]
    made = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        tensors = streamer.get_tensors()
        for index in range(len(FILES)):
            with torch.cuda.stream(streams[index % count]):
                name, tensor = next(tensors)
                made[name] = cloned(tensor)
                del tensor
    return wrong_of(made, place)


@scenario
def two_side_streams_in_turn(place: Place) -> list[str]:
    return _in_turn(place, 2)


@scenario
def three_side_streams_in_turn(place: Place) -> list[str]:
    return _in_turn(place, 3)


def _used_elsewhere(tensor: torch.Tensor, other: torch.cuda.Stream) -> torch.Tensor:
    other.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(other):
        made = cloned(tensor)
    tensor.record_stream(other)
    return made


@scenario
def used_on_another_stream_by_the_book(place: Place) -> list[str]:
    other = side(place)
    return wrong_of(taken(place, lambda tensor: _used_elsewhere(tensor, other)), place)


@scenario
def used_on_a_stream_of_high_priority_by_the_book(place: Place) -> list[str]:
    other = torch.cuda.Stream(place.device, priority=-1)
    return wrong_of(taken(place, lambda tensor: _used_elsewhere(tensor, other)), place)


# Loads that end early, and several at once.


@scenario
def abandoned_after_some_tensors(place: Place) -> list[str]:
    copies = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        for _, (name, tensor) in zip(range(5), streamer.get_tensors(), strict=False):
            copies[name] = cloned(tensor)
            del tensor
    return [name for name in wrong_of(copies, place) if name in copies]


@scenario
def abandoned_before_the_first(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
    return wrong_of(load(place.path, place.device), place)


@scenario
def followed_by_another_before_its_end(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        for _ in range(3):
            streamer.stream_files([str(place.path)], device=str(place.device))
            next(streamer.get_tensors())
        streamer.stream_files([str(place.path)], device=str(place.device))
        return wrong_of(dict(streamer.get_tensors()), place)


@scenario
def an_iterator_that_is_dropped(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        tensors = streamer.get_tensors()
        kept_one = dict([next(tensors)])
        del tensors
    return [name for name in wrong_of(kept_one, place) if name in kept_one]


@scenario
def two_loads_in_turns(place: Place) -> list[str]:
    made: list[dict[str, torch.Tensor]] = [{}, {}]
    with SafetensorsStreamer() as one, SafetensorsStreamer() as other:
        for streamer in (one, other):
            streamer.stream_files([str(place.path)], device=str(place.device))
        for first, second in zip(one.get_tensors(), other.get_tensors(), strict=True):
            for found, (name, tensor) in zip(made, (first, second), strict=True):
                found[name] = cloned(tensor)
    return wrong_of(made[0], place) + wrong_of(made[1], place)


@scenario
def loads_in_three_threads(place: Place) -> list[str]:
    results: list[list[str]] = []

    def run() -> None:
        with torch.cuda.stream(side(place)):
            results.append(wrong_of(taken(place, cloned), place))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [name for each in results for name in each] if len(results) == 3 else ["a thread failed"]


@scenario
def taken_in_another_thread(place: Place) -> list[str]:
    made: dict[str, torch.Tensor] = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)], device=str(place.device))
        tensors = streamer.get_tensors()

        def run() -> None:
            with torch.cuda.device(place.device):
                made.update((name, cloned(tensor)) for name, tensor in tensors)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    return wrong_of(made, place)


# What is asked for.


@scenario
def some_tensors_by_name(place: Place) -> list[str]:
    names = {"t3", "t20", "scalar", "large"}
    found = load(place.path, place.device, tensor_names=names)
    return sorted(set(wrong_of(found, place)) & names) + sorted(found.keys() ^ names)


@scenario
def rows_and_columns_of_a_tensor(place: Place) -> list[str]:
    whole = np.frombuffer(FILES["rows"].data, np.int64).reshape(30, 40)
    wanted = {0: whole[5:20], 1: whole[:, 7:31]}
    found = []
    for axis, (start, end) in enumerate([(5, 20), (7, 31)]):
        part = load(place.path, place.device, select={"rows": TensorSlice(axis, start, end)})["rows"]
        if raw(part.cpu()) != wanted[axis].tobytes():
            found.append(f"axis {axis}")
    return found


@scenario
def ranges_of_a_file(place: Place) -> list[str]:
    data = place.path.read_bytes()
    offsets, sizes = [100_000, 0, 5, 700_000], [50_000, 10, 0, 200_001]
    found = []
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, str(place.path), offsets, sizes)], device=str(place.device))
        for _, index, tensor in streamer.get_chunks():
            if raw(cloned(tensor).cpu()) != data[offsets[index] :][: sizes[index]]:
                found.append(f"range {index}")
            del tensor
    return found


@scenario
def two_files_at_once(place: Place) -> list[str]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(place.path)] * 2, device=str(place.device))
        pairs = [(name, cloned(tensor)) for name, tensor in streamer.get_tensors()]
    half = len(FILES)
    return wrong_of(dict(pairs[:half]), place) + wrong_of(dict(pairs[half:]), place)


# What the host has page-locked.


def _from_the_host(place: Place, change: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        sleep()
        return change(tensor).to(place.device, non_blocking=True)

    return wrong_of(mapped(place.path, moved, "cpu"), place)


@scenario
def page_locked_tensors_copied_and_dropped(place: Place) -> list[str]:
    return _from_the_host(place, lambda tensor: tensor)


@scenario
def page_locked_tensors_viewed_and_dropped(place: Place) -> list[str]:
    return _from_the_host(place, lambda tensor: tensor.view_as(tensor))


@scenario
def page_locked_tensors_on_a_side_stream(place: Place) -> list[str]:
    with torch.cuda.stream(side(place)):
        return _from_the_host(place, lambda tensor: tensor)


# What torch can be told, and what else is done with tensors.


@scenario
def in_inference_mode(place: Place) -> list[str]:
    with torch.inference_mode():
        return wrong_of(load(place.path, place.device), place)


@scenario
def with_another_default_device(place: Place) -> list[str]:
    with torch.device("meta"):
        loaded = load(place.path, place.device)
    return wrong_of(loaded, place)


@scenario
def with_synchronizing_forbidden(place: Place) -> list[str]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        loaded = load(place.path, place.device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return wrong_of(loaded, place)


@scenario
def with_fills_of_all_new_memory(place: Place) -> list[str]:
    torch.use_deterministic_algorithms(True)
    try:
        return wrong_of(load(place.path, place.device), place)
    finally:
        torch.use_deterministic_algorithms(False)


@scenario
def handed_over_by_dlpack(place: Place) -> list[str]:
    with torch.cuda.device(place.device):  # torch exports from the current device only
        theirs = taken(place, torch.utils.dlpack.from_dlpack)
    gc.collect()
    other = torch.empty(400_000, dtype=torch.uint8, device=place.device).fill_(1)
    return wrong_of(theirs, place) + wrong_fills([other], 1)


@scenario
def deep_copies(place: Place) -> list[str]:
    return wrong_of(copy.deepcopy(load(place.path, place.device)), place)


@scenario
def parts_that_share_a_storage(place: Place) -> list[str]:
    halves = taken(place, lambda tensor: tensor.reshape(-1).view(torch.uint8).chunk(2))
    joined = {name: torch.cat(parts) for name, parts in halves.items()}
    torch.cuda.synchronize(place.device)
    return [name for name, each in FILES.items() if raw(joined[name].cpu()) != each.data]


@scenario
def filled_in_place_while_others_come(place: Place) -> list[str]:
    def filled(tensor: torch.Tensor) -> torch.Tensor:
        made = cloned(tensor)
        tensor.fill_(1)
        return made

    return wrong_of(taken(place, filled), place)
