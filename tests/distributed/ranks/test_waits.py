"""What a rank says of its waits when it times out."""

from contextlib import ExitStack

from runai_model_streamer.distributed.ranks.notices import TimedOut
from runai_model_streamer.distributed.ranks.waits import Waits


def test_the_longest_wait_comes_first_and_each_rank_once() -> None:
    waits = Waits()
    with ExitStack() as open_waits:
        for ranks in ((3,), (1,), (3,)):
            open_waits.enter_context(waits.of(*ranks))
        assert waits.longer_than(0) == TimedOut((3, 1), (3, 1))
    assert waits.longer_than(0) == TimedOut((), ())


def test_a_wait_for_any_of_several_accuses_none_of_them() -> None:
    waits = Waits()
    with waits.of(1, 2), waits.of(4):
        assert waits.longer_than(0) == TimedOut((1, 2, 4), (4,))


def test_a_short_wait_does_not_count() -> None:
    waits = Waits()
    with waits.of(1):
        assert waits.longer_than(3600) == TimedOut((), ())
