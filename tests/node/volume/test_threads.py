"""One thing done for each of many images: what it leaves behind."""

import gc
import weakref

import numpy as np
import pytest

from node.volume.threads import for_each


def fill(filled: np.ndarray, threads: int) -> None:
    def invert(number: int) -> None:
        filled[number] = 1 / number

    with pytest.raises(ZeroDivisionError):
        for_each(invert, len(filled), threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_being_filled_is_gone_with_the_error(threads: int) -> None:
    """A volume that could not be read does not stay beside the next one until somebody collects garbage."""
    filled = np.empty(3)
    gone = weakref.ref(filled)
    gc.disable()
    try:
        fill(filled, threads)
        del filled
        assert gone() is None
    finally:
        gc.enable()
