"""Files in the place of memory: whole or not at all, never changed, there for as long as the array. Memory used again:
by one array at a time.
"""

import gc
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from node.volume import pages
from node.volume.pages import MOST_PARTS, Pages, SpareMemory

SHAPE = (3, 64, 128)
VALUES = np.arange(64 * 128, dtype=np.int16).reshape(SHAPE[1:]) - 4000

mapping = pytest.mark.skipif(not Pages.can_hold(SHAPE, np.int16), reason="needs Linux 5.14 and pages of 16 KB at most")


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


@mapping
def test_a_file_takes_the_place_of_a_part(path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(path) as file:
        assert memory.put(1, file)
    np.testing.assert_array_equal(memory.array, np.stack([np.full_like(VALUES, 7), VALUES, np.full_like(VALUES, 7)]))


@mapping
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


@mapping
def test_writing_to_the_array_leaves_the_file_as_it_is(path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    with opened(path) as file:
        assert memory.put(0, file) and memory.put(1, file)
    memory.array[0] += 1
    np.testing.assert_array_equal(memory.array[0], VALUES + 1)
    np.testing.assert_array_equal(memory.array[1], VALUES)
    assert path.read_bytes() == VALUES.tobytes()


@mapping
@pytest.mark.parametrize("kept", [0, 4096, 3 * 4096 + 1])
def test_what_cannot_be_read_leaves_the_part_as_it_was(path: Path, kept: int) -> None:
    """Pages beyond the end of a file cannot be read, as those of a damaged disk cannot: who looks is ended."""
    os.truncate(path, min(kept, VALUES.nbytes - os.sysconf("SC_PAGESIZE")))
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(path) as file:
        assert not memory.put(1, file)
    assert (memory.array == 7).all() and not is_mapped(path)


@mapping
def test_what_is_no_file_leaves_the_part_as_it_was(tmp_path: Path) -> None:
    memory = Pages(SHAPE, np.int16)
    memory.array[...] = 7
    with opened(tmp_path) as folder:
        assert not memory.put(1, folder)
    assert (memory.array == 7).all()


@mapping
def test_a_file_that_gets_no_place_is_not_left_in_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that has nearly all the mappings that it may have: each attempt would take one more."""
    monkeypatch.setattr(pages, "_MREMAP_FIXED", 1 << 20)  # EINVAL
    memory = Pages(SHAPE, np.int16)
    with opened(path) as file, pytest.raises(MemoryError):
        memory.put(1, file)
    assert not is_mapped(path)


@mapping
def test_only_whole_pages_and_not_too_many_of_them() -> None:
    rows = os.sysconf("SC_PAGESIZE")
    assert Pages.can_hold((MOST_PARTS, rows, 1), np.int16)
    assert not Pages.can_hold((MOST_PARTS + 1, rows, 1), np.int16)
    assert not Pages.can_hold((3, rows - 1, 1), np.int16)
    assert not Pages.can_hold((0, rows, 1), np.int16) and not Pages.can_hold((3, 0, 1), np.int16)


@pytest.mark.parametrize("make", [Pages, SpareMemory().take], ids=["pages", "spare"])
def test_more_memory_than_there_is(make: Callable[[tuple[int, ...], type], object]) -> None:
    with pytest.raises(MemoryError):
        make((1 << 20, 1 << 20, 1 << 10), np.int16)


def memory_of(array: np.ndarray) -> weakref.ref[mmap.mmap]:
    """Of an array of `SpareMemory`."""
    memory = np.asarray(array.base).base
    return weakref.ref(memory.obj if isinstance(memory, memoryview) else memory)


@pytest.mark.parametrize("shape", [SHAPE, (2, 10, 11)], ids=["as large", "smaller"])
def test_memory_of_an_array_that_is_gone_is_that_of_the_next(shape: tuple[int, ...]) -> None:
    spare = SpareMemory()
    array = spare.take(SHAPE, np.int16)
    first = memory_of(array)
    part = array[1:].view(np.uint16)
    part[...] = 7
    del array
    assert memory_of(spare.take(SHAPE, np.int16)) != first  # something refers to it
    assert (part == 7).all()
    del part
    following = spare.take(shape, np.uint16)
    assert memory_of(following) == first and following.shape == shape and following.dtype == np.uint16
    following[...] = 9
    assert memory_of(spare.take(SHAPE, np.int16)) != first
    assert (following == 9).all()


def test_one_memory_waits_and_goes_when_it_is_too_small_or_dropped() -> None:
    spare = SpareMemory()
    arrays = [spare.take(SHAPE, np.int16) for _ in range(2)]
    memories = [memory_of(array) for array in arrays]
    while arrays:
        arrays.pop()
    assert [each() is not None for each in memories] == [True, False]
    larger = spare.take((4, *SHAPE[1:]), np.int16)
    memories.append(memory_of(larger))
    assert memories[0]() is None
    del larger
    assert memories[2]() is not None
    spare.drop()
    assert memories[2]() is None


def test_memory_that_is_too_large_is_not_kept() -> None:
    spare = SpareMemory(VALUES.nbytes)
    array = spare.take(SHAPE, np.int16)
    memory = memory_of(array)
    del array
    assert memory() is None
