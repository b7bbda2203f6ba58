"""Which bytes of a read go where."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda.image import Image, needs_of, tensors_of
from runai_model_streamer.pipeline.plan.groups import PlannedFile, plan_groups, steps_of
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import infos


@given(
    st.lists(st.one_of(st.integers(0, 5), st.integers(0, 30_000)), max_size=15),
    st.integers(1, 4),
    st.sampled_from([None, "F16", "F32"]),
    st.data(),
)
def test_every_byte_of_every_tensor_has_one_place(
    sizes: list[int], pages: int, target: str | None, data: st.DataObject
) -> None:
    # Of an even number of bytes some are numbers, which land in scratch memory if they are cast.
    dtypes = [data.draw(st.sampled_from(["U8", "BF16"])) if size % 2 == 0 else "U8" for size in sizes]
    tensors = [
        info._replace(dtype=dtype)
        for info, dtype in zip(infos(sizes, data_start=data.draw(st.integers(0, 2 * PAGE))), dtypes, strict=True)
    ]
    wanted = [tensor for tensor in tensors if data.draw(st.booleans())]
    size = tensors[-1].end if tensors else 0
    files = [PlannedFile(size, SourceKind.FILE, PAGE, pages * PAGE, wanted)]
    content = torch.arange(size, dtype=torch.int64).remainder(251).to(torch.uint8)
    for group in plan_groups(files, target=8 * PAGE):
        memory = [torch.zeros(size, dtype=torch.uint8) for size in needs_of(group, target).sizes]
        image = Image(group, memory, target)
        places = {tensor.data_ptr(): tensor for tensor in memory}
        for step in steps_of(group, files):
            for piece in image.pieces(step):
                base = max(pointer for pointer in places if pointer <= piece.pointer)
                at, source = piece.pointer - base, step.offset + piece.start
                assert 0 <= piece.start < piece.start + piece.length <= step.length
                places[base][at : at + piece.length] += content[source : source + piece.length]
        casts = {cast.target: cast for cast in image.casts}
        with_bytes = [info for info in tensors_of(group) if info.nbytes]
        for info, landed in zip(with_bytes, memory, strict=False):
            found = landed
            if target is not None and info.dtype == "BF16":
                cast, scratch = casts.pop(landed.data_ptr()), memory[-1]
                at = cast.source - scratch.data_ptr()
                assert (cast.dtype, cast.elements) == ("BF16", info.nbytes // 2)
                assert len(landed) == info.nbytes // 2 * {"F16": 2, "F32": 4}[target]
                assert not landed.any()
                found = scratch[at : at + info.nbytes]
            assert torch.equal(found, content[info.start : info.end])
            assert image.pop() is landed
        assert not casts
        scratch_memory = image.pop_scratch()
        assert (scratch_memory is not None) == (len(memory) > len(with_bytes))
        assert image.pop_scratch() is None
