"""Which bytes of a read go where."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda.image import Image, needs_of, tensors_of
from runai_model_streamer.pipeline.plan.groups import PlannedFile, plan_groups, steps_of
from runai_model_streamer.ranges import PAGE
from tests.casts import TARGETS
from tests.checkpoints import infos as infos_of


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
        info._replace(dtype=dtype, shape=(info.nbytes // (2 if dtype == "BF16" else 1),))
        for info, dtype in zip(infos_of(sizes, data_start=data.draw(st.integers(0, 2 * PAGE))), dtypes, strict=True)
    ]
    wanted = [tensor for tensor in tensors if data.draw(st.booleans())]
    size = tensors[-1].end if tensors else 0
    files = [PlannedFile(size, SourceKind.FILE, PAGE, pages * PAGE, wanted)]
    content = torch.arange(size, dtype=torch.int64).remainder(251).to(torch.uint8)
    for group in plan_groups(files, target=8 * PAGE):
        memory = [torch.zeros(shape, dtype=dtype) for shape, dtype in needs_of(group, target).forms]
        image = Image(group, memory, target)
        places = {tensor.data_ptr(): tensor.view(-1).view(torch.uint8) for tensor in memory if tensor.nbytes}
        for step in steps_of(group, files):
            for pointer, source, length in zip(*image.copies(step, step.offset), strict=True):
                base = max(place for place in places if place <= pointer)
                at = pointer - base
                assert step.offset <= source < source + length <= step.offset + step.length
                places[base][at : at + length] += content[source : source + length]
        casts = {cast.target.data_ptr(): cast for cast in image.casts}
        infos = list(tensors_of(group))
        assert image.tensors == [(info.name, made) for info, made in zip(infos, memory, strict=False)][::-1]
        for info, landed in zip(infos, (made.view(-1) for made in memory), strict=False):
            found = landed.view(torch.uint8)
            if not info.nbytes:
                continue
            if target is not None and info.dtype == "BF16":
                cast, scratch = casts.pop(landed.data_ptr()), memory[-1]
                at = cast.source.data_ptr() - scratch.data_ptr()
                assert (cast.source.dtype, cast.source.shape) == (torch.bfloat16, cast.target.shape)
                assert landed.dtype == TARGETS[target]
                assert not landed.any()
                found = scratch[at : at + info.nbytes]
            assert torch.equal(found, content[info.start : info.end])
        assert not casts
        scratch_memory = image.pop_scratch()
        assert (scratch_memory is not None) == (len(memory) > len(infos))
        assert image.pop_scratch() is None
