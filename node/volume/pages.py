"""Memory of a volume in whose place files can be put: what was decoded lies in the machine's memory already, and has to
be neither copied nor given memory of its own.
"""

import ctypes
import functools
import mmap
import os
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

MOST_PARTS = 4096
"""Larger volumes are read: a process has 65530 mappings by default, and a job may have several volumes."""

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
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            raise MemoryError(f"{size} bytes") from None
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does for its own
        self.array = np.frombuffer(memory, dtype).reshape(shape)

    @staticmethod
    def can_hold(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        """Whether each part along the first axis is of whole pages, and the system can put files there."""
        part = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
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
            raise MemoryError(os.strerror(ctypes.get_errno()))  # what was in the place may be gone
        return True


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
