"""Compressed images decoded while their series arrives, by processes, or when it is loaded, by threads.

All decoders let the interpreter go, so threads are as quick as processes, and what they decode is at its place. What
they cannot do is outlive a decoder that breaks down or comes to no end. Therefore whoever decodes an image marks it
first, in a `FrameCache`: the image with which a process ended is decoded alone (`alone`) from then on, and refused if
it is the reason. Most images meet a decoder first in the processes that decode what arrives: nothing else ends with
them.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from pydicom import uid

from node.errors import NotAnalysed, Transient
from node.volume.alone import BrokenDecoder, decode_alone, ended_after, live_as_long_as_parent
from node.volume.cache import Claim, FrameCache
from node.volume.codecs import CODECS, DEFLATED_FRAME, UNCOMPRESSED_FRAMES
from node.volume.instance import read_instance
from node.volume.pages import Pages, SpareMemory
from node.volume.slices import Slice, slices_of
from node.volume.values import AS_STORED, Rescale, fits_at_once, read_rescale, rescale_in_place, stored_type
from node.volume.voxels import Reader

SLOW = frozenset(CODECS) - {uid.RLELossless, DEFLATED_FRAME, UNCOMPRESSED_FRAMES}
"""Transfer syntaxes worth keeping decoded: 512 x 512 take 1 to 30 ms of the processor, keeping a quarter of one.

The others take as long as a mark and need none: zlib, numpy, and 100 lines of C for RLE.
"""

LONGEST_SECONDS = 120.0
"""For one image in a decoding process; the slowest decoder takes 8 s for the largest image (8192 x 8192)."""


class Decoders:
    """Decodes for the loads of this process, and for what arrives; use as a context manager or `close`.

    May be used from several threads. It keeps the memory of a volume that is gone for the next one.

    Parameters
    ----------
    processes : int
        That decode what arrives, started when first needed and kept; as many threads decode for a load. 0 means one for
        each core, at most 8.
    cache : FrameCache
        Where decoded images are kept for other processes and later jobs, and suspect ones marked.
    longest_seconds : float
        What one image may take in a process; a load that hangs is ended by who runs it.
    """

    def __init__(self, processes: int, cache: FrameCache, longest_seconds: float = LONGEST_SECONDS) -> None:
        self.processes = processes or min(8, os.cpu_count() or 1)
        self._cache, self._longest_seconds = cache, longest_seconds
        self._memory = SpareMemory()
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._loads = 0
        self._keeps = True

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, once each has done what it has in hand; another use starts them again."""
        self._memory.drop()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    @contextmanager
    def reader(self, slices: Sequence[Slice], check: Callable[[], None] = lambda: None) -> Iterator[Reader]:
        """Reads these images, decoded before or by the threads that ask for them.

        `check` is called before each image, and may raise to stop. What only arrives waits meanwhile.
        """
        with self._loading():
            reading = _Reading(self._cache, slices, self._longest_seconds, self._keeps, check, self._memory)
            yield Reader(reading.read, self.processes, allocate=reading.allocate)

    def allocate(self, shape: tuple[int, int, int], dtype: DTypeLike, stays: Rescale | None) -> np.ndarray:
        """As `allocate_fresh`, for images that are not compressed."""
        return self._memory.take(shape, dtype)

    @contextmanager
    def keeping(self, keeps: bool) -> Iterator[None]:
        """Whether the loads of this context keep what they decode: not where nobody else will want it."""
        before, self._keeps = self._keeps, keeps
        try:
            yield
        finally:
            self._keeps = before

    def submit_file(self, path: Path) -> "Future[int]":
        """Have all frames of a file decoded into the cache; the number of those that could be."""
        return self._started().submit(decode_file, self._cache, path, self._longest_seconds)

    def wait_for_jobs(self, timeout: float) -> bool:
        """Whether no job loads images, once it is so or the time in seconds has passed."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._loads, timeout)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        with self._idle:
            self._loads += 1
        try:
            yield
        finally:
            with self._idle:
                self._loads -= 1
                self._idle.notify_all()

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.processes, multiprocessing.get_context("spawn"), initializer=live_as_long_as_parent
                )
            return self._pool


class _Reading:
    """The images of one series; what the cache lacks is decoded by the thread that asks for it, and kept."""

    def __init__(
        self,
        cache: FrameCache,
        slices: Sequence[Slice],
        longest_seconds: float,
        keeps: bool,
        check: Callable[[], None],
        memory: SpareMemory,
    ) -> None:
        self._cache, self._slices, self._longest_seconds, self._check = cache, slices, longest_seconds, check
        self._keeps, self._memory = keeps, memory
        self._untrimmed_bytes = 0
        self._pages: Pages | None = None
        self._is_begun = True

    def allocate(self, shape: tuple[int, int, int], dtype: DTypeLike, stays: Rescale | None) -> np.ndarray:
        """As `allocate_fresh`; `read` puts images that were decoded before in the place of its parts."""
        self._is_begun = self._has_some(stays or AS_STORED)
        if stays is None or not self._is_begun or not Pages.can_hold(shape, dtype):
            return self._memory.take(shape, dtype)
        self._memory.drop()
        self._pages = Pages(shape, dtype)
        return self._pages.array

    def _has_some(self, rescale: Rescale) -> bool:
        """Whether images were decoded before; what arrived last may not be, at either end."""
        some = (self._slices[0], self._slices[len(self._slices) // 2], self._slices[-1])
        return any(self._cache.has(one.instance.path, _frame(one), rescale) for one in some)

    def read(self, index: int, into: np.ndarray, rescale: Rescale) -> None:
        """As `Slice.read`; also raises `BrokenDecoder`. A disk that takes nothing costs time only."""
        self._check()
        one = self._slices[index]
        path, frame = one.instance.path, _frame(one)
        if one.instance.transfer_syntax_uid not in SLOW:
            one.read(into, rescale)
            return

        def put(file: int) -> bool:
            return self._pages is not None and self._pages.put(index, file)

        if self._is_begun and self._cache.read(path, frame, into, rescale, put):
            return
        with self._cache.claim(path, frame, rescale) as claimed:
            if claimed is None and self._cache.read(path, frame, into, rescale, put):
                return
            self._decode(one, claimed, into, rescale)
            if claimed is not None and self._keeps:
                claimed.keep(into)
        if claimed is not None and claimed.is_kept:
            self._bound(into.nbytes)

    def _decode(self, one: Slice, claimed: Claim | None, into: np.ndarray, rescale: Rescale) -> None:
        if claimed is None or not claimed.is_suspect:
            one.read(into, rescale)
            return
        try:
            into[...] = decode_alone(one, self._longest_seconds)
        except (BrokenDecoder, Transient):
            claimed.leave()
            raise
        rescale_in_place(into, rescale)

    def _bound(self, kept_bytes: int) -> None:
        """Images that were read are the oldest ones. That two threads may count one too few does no harm."""
        self._untrimmed_bytes += kept_bytes
        if self._untrimmed_bytes > self._cache.maximum_bytes // 8:
            self._untrimmed_bytes = 0
            self._cache.trim(time.time())


def decode_file(cache: FrameCache, path: Path, longest_seconds: float) -> int:
    """Runs in a decoding process. What cannot be decoded is told to who asks for it, by the job that needs it."""
    decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        try:
            slices = slices_of([read_instance(path, 1)])
        except (NotAnalysed, Transient):
            return 0
        for one in slices:
            with suppress(NotAnalysed, Transient, OSError):
                decoded += _decode_ahead(cache, one, longest_seconds)
    return decoded


def _decode_ahead(cache: FrameCache, one: Slice, longest_seconds: float) -> bool:
    """Have an image in the cache, as the volume will hold it; not one with which another process ended."""
    rescale = read_rescale(one.header, one.name)
    if not fits_at_once(one.form, rescale):
        rescale = AS_STORED
    with cache.claim(one.instance.path, _frame(one), rescale) as claimed:
        if claimed is None:
            return True
        if claimed.is_suspect:
            claimed.leave()
            return False
        values = np.empty(one.form.frame_shape, stored_type([one.form]))
        with ended_after(longest_seconds):
            one.read(values, rescale)
        claimed.keep(values)
        return True


def _frame(one: Slice) -> int:
    return (one.frame_number or 1) - 1
