"""Files in the place of memory: whole or not at all, never changed, and there for as long as the array."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from node.volume import pages
from node.volume.pages import MOST_PARTS, Pages

SHAPE = (3, 64, 128)
VALUES = np.arange(64 * 128, dtype=np.int16).reshape(SHAPE[1:]) - 4000

pytestmark = pytest.mark.skipif(not Pages.can_hold(SHAPE, np.int16), reason="needs Linux 5.14 and pages of 16 KB")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "values"
    made.write_bytes(VALUES.tobytes())
    return made


@contextmanager
def opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    yield file
    os.close(file)


def test_a_file_takes_the_place_of_a_part(path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(path) as file:
        assert memory.put(1, file)
    np.testing.assert_array_equal(memory.array, np.stack([np.full_like(VALUES, 7), VALUES, np.full_like(VALUES, 7)]))


def test_it_stays_when_the_file_is_unlinked_and_as_long_as_the_array(path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    with opened(path) as file:
        assert memory.put(2, file)
    array = memory.array
    del memory
    gc.collect()
    path.unlink()
    np.testing.assert_array_equal(array[2], VALUES)
    assert is_mapped(path)
    del array
    gc.collect()
    assert not is_mapped(path)


def is_mapped(folder: Path) -> bool:
    """Whether this process has a file below this path in its memory."""
    return str(folder) in Path("/proc/self/maps").read_text()


def test_writing_to_the_array_leaves_the_file_as_it_is(path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    with opened(path) as file:
        assert memory.put(0, file) and memory.put(1, file)
    memory.array[0] += 1
    np.testing.assert_array_equal(memory.array[0], VALUES + 1)
    np.testing.assert_array_equal(memory.array[1], VALUES)
    assert path.read_bytes() == VALUES.tobytes()


@pytest.mark.parametrize("kept", [0, 4096, 3 * 4096 + 1])
def test_what_cannot_be_read_leaves_the_part_as_it_was(path: Path, kept: int) -> None:
    """Pages beyond the end of a file cannot be read, as those of a damaged disk cannot: who looks is ended."""
    os.truncate(path, min(kept, VALUES.nbytes - os.sysconf("SC_PAGESIZE")))
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(path) as file:
        assert not memory.put(1, file)
    assert (memory.array == 7).all() and not is_mapped(path)


def test_what_is_no_file_leaves_the_part_as_it_was(tmp_path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(tmp_path) as folder:
        assert not memory.put(1, folder)
    assert (memory.array == 7).all()


def test_only_whole_pages_and_not_too_many_of_them() -> None:
    rows = os.sysconf("SC_PAGESIZE")
    assert Pages.can_hold((MOST_PARTS, rows, 1), np.int16)
    assert not Pages.can_hold((MOST_PARTS + 1, rows, 1), np.int16)
    assert not Pages.can_hold((3, rows - 1, 1), np.int16)
    assert not Pages.can_hold((0, rows, 1), np.int16) and not Pages.can_hold((3, 0, 1), np.int16)


def test_more_memory_than_there_is() -> None:
    with pytest.raises(MemoryError):
        pages.Pages((1 << 20, 1 << 20, 1 << 10), np.int16)
