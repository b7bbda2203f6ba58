"""Which bytes between wanted ones are read along."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan import groups


@contextmanager
def reading_over(gap: int) -> Iterator[None]:
    """Loads of files read over gaps of this many bytes at most."""
    with pytest.MonkeyPatch.context() as patch:
        # A measured constant of planning, which no caller chooses: to hand it in would take it through six signatures.
        patch.setitem(groups.MAX_GAP, SourceKind.FILE, gap)
        yield
