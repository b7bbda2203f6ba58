"""The device memory of one group."""

from runai_model_streamer.pipeline.cuda.image import Image
from runai_model_streamer.pipeline.plan.groups import Group


class CudaLease:
    """The device memory of one group."""

    __slots__ = ("event", "group", "image", "stream")

    def __init__(self, group: Group, image: Image, stream: int, event: int) -> None:
        self.group = group
        self.image = image
        self.stream = stream
        """In whose order the memory was allocated."""
        self.event = event
        """Recorded behind what was pending on the memory; when the group is complete, behind its copies."""
