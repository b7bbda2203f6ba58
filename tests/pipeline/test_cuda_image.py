"""Which bytes of a read go where."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.io.ranges import PAGE
from runai_model_streamer.io.source import SourceKind
from runai_model_streamer.pipeline.cuda_image import Image, sizes_of, tensors_of
from runai_model_streamer.pipeline.plan import PlannedFile, plan_groups, steps_of
from tests.checkpoints import infos


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 30_000)), max_size=15), st.integers(1, 4), st.data())
def test_every_byte_of_every_tensor_has_one_place(sizes: list[int], pages: int, data: st.DataObject) -> None:
    tensors = infos(sizes, data_start=data.draw(st.integers(0, 2 * PAGE)))
    wanted = [tensor for tensor in tensors if data.draw(st.booleans())]
    size = tensors[-1].end if tensors else 0
    files = [PlannedFile(size, SourceKind.FILE, PAGE, pages * PAGE, wanted)]
    content = torch.arange(size, dtype=torch.int64).remainder(251).to(torch.uint8)
    for group in plan_groups(files, target=8 * PAGE):
        memory = [torch.zeros(size, dtype=torch.uint8) for size in sizes_of(group)]
        image = Image(group, memory)
        places = {tensor.data_ptr(): tensor for tensor in memory}
        for step in steps_of(group, files):
            for piece in image.pieces(step):
                base = max(pointer for pointer in places if pointer <= piece.pointer)
                at, source = piece.pointer - base, step.offset + piece.start
                assert 0 <= piece.start < piece.start + piece.length <= step.length
                places[base][at : at + piece.length] += content[source : source + piece.length]
        for info, landed in zip((each for each in tensors_of(group) if each.nbytes), memory, strict=True):
            assert torch.equal(landed, content[info.start : info.end])
            assert image.pop() is landed
