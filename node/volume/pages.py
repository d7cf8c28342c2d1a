"""Memory of volumes: that of the one before (`SpareMemory`), or some in whose place files can be put (`Pages`).

Memory that the system has to give costs more than what is read into it, on a virtual machine whose host took it back
meanwhile. What was decoded lies in the machine's memory already, and has to be neither copied nor given other memory.
"""

import ctypes
import functools
import mmap
import os
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

MOST_PARTS = 4096
"""Larger volumes are read: a process has 65530 mappings by default, and a job may have several volumes."""

LARGEST_SPARE_BYTES = 1 << 29
"""1024 images of 512 x 512."""

_MADV_POPULATE_READ = 22
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
"""As of Linux; `_system_can` tells where they mean this."""


class Pages:
    """Fresh memory of its own pages, as an array whose parts along the first axis may be replaced by files.

    It lives as long as its array.

    Parameters
    ----------
    shape : tuple of int
    dtype : DTypeLike

    Raises
    ------
    MemoryError
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.array = np.frombuffer(_fresh(_size(shape, dtype)), dtype).reshape(shape)

    @staticmethod
    def can_hold(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        """Whether each part along the first axis is of whole pages, and the system can put files there."""
        part = _size(shape[1:], dtype)
        return part % mmap.PAGESIZE == 0 and part > 0 and 0 < shape[0] <= MOST_PARTS and _system_can()

    def put(self, index: int, file: int) -> bool:
        """Have an open file in the place of a part, which is as long: read into the machine's memory before this
        returns, and copied page by page should somebody write to the array. The file must not become shorter.

        Returns
        -------
        bool
            False, with the part as it was, where the file cannot be read or is shorter.

        Raises
        ------
        MemoryError
        """
        place, length = _address(self.array[index]), self.array[index].nbytes
        try:
            found = _map(length, file)
        except OSError:
            return False
        if _libc().madvise(found, length, _MADV_POPULATE_READ) != 0:
            _libc().munmap(found, length)
            return False
        if _libc().mremap(found, length, length, _MREMAP_MAYMOVE | _MREMAP_FIXED, place) != place:
            reason = os.strerror(ctypes.get_errno())
            _libc().munmap(found, length)
            raise MemoryError(reason)  # what was in the place may be gone
        return True


class SpareMemory:
    """The memory of an array that is gone, for the next one; for several threads.

    While it waits the system may take it, page by page, for want of memory; of what was in it nothing is read again.

    Parameters
    ----------
    largest_bytes : int
        More is not kept.
    """

    def __init__(self, largest_bytes: int = LARGEST_SPARE_BYTES) -> None:
        self._largest_bytes = largest_bytes
        self._spare: deque[mmap.mmap] = deque(maxlen=1)  # without a lock: an array may end at any place

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An array, not initialised; its memory comes back once nothing refers to it any more.

        Raises
        ------
        MemoryError
        """
        size = _size(shape, dtype)
        memory = self._pop()
        if memory is None or len(memory) < size:
            memory = None  # what is too small is given up first
            memory = _fresh(size)
        array = np.frombuffer(memory, dtype, size // np.dtype(dtype).itemsize)
        if len(memory) <= self._largest_bytes:
            weakref.finalize(array, self._give, memory).atexit = False
        return array.reshape(shape)

    def drop(self) -> None:
        """Give up what waits."""
        self._pop()

    def _pop(self) -> mmap.mmap | None:
        try:
            return self._spare.pop()
        except IndexError:
            return None

    def _give(self, memory: mmap.mmap) -> None:
        with suppress(OSError):
            memory.madvise(mmap.MADV_FREE)
        self._spare.append(memory)


def _size(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _fresh(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError(f"{size} bytes") from None
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does for its own
    return memory


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _map(length: int, file: int) -> int:
    """Where the system puts a file: to be read, and copied when it is written to."""
    address = _libc().mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


@functools.cache
def _libc() -> ctypes.CDLL:
    """The calls that Python's own `mmap` lacks; each lets the interpreter go."""
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = [pointer, size, number, number, number, ctypes.c_long], pointer
    libc.mremap.argtypes, libc.mremap.restype = [pointer, size, size, number, pointer], pointer
    libc.madvise.argtypes = [pointer, size, number]
    libc.munmap.argtypes = [pointer, size]
    return libc


@functools.cache
def _system_can() -> bool:
    """Whether the system says of a mapped file that it cannot be read (Linux 5.14), instead of ending the process."""
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as memory:
            memory.madvise(_MADV_POPULATE_READ)
    except (OSError, AttributeError):
        return False
    return True
