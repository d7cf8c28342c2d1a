"""Processes that decode compressed images beside the one that loads, or before it does.

They are processes and not threads so that a decoder that takes its process down spoils one attempt, not the node. What
a process decoded goes through a `FrameCache` (the page cache of the system, rarely the disk), so that an image decoded
while its series still arrived and one decoded now come the same way, and none is decoded by two at once. Images are
decoded a few ahead of the one that is asked for. While a job loads, nothing that only arrives is handed over.
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from node.errors import NotAnalysed, Transient
from node.volume.cache import FrameCache
from node.volume.codecs import CODECS, DEFLATED_FRAME, UNCOMPRESSED_FRAMES
from node.volume.instance import read_instance
from node.volume.known import reading_threads
from node.volume.slices import Slice, slices_of
from node.volume.voxels import ReadImage

SLOW = frozenset(CODECS) - {uid.RLELossless, DEFLATED_FRAME, UNCOMPRESSED_FRAMES}
"""Transfer syntaxes worth handing over: 2 to 30 ms of the processor for 512 x 512; handing over takes half of one."""

FEWEST_IMAGES = 24
"""Below it a series is decoded where it is loaded: starting to hand over costs more."""

IMAGES_AHEAD = 64
"""Images that each process may have waiting, and..."""

IMAGES_AT_ONCE, FEWEST_AT_ONCE = 32, 2
"""...that it is given at once; fewer towards the end of a series, so that all processes end together."""

TEMPORARY_BYTES = 1 << 30
"""Largest cache of decoders that were given none."""

Refused = dict[int, tuple[str, str]]
"""Code and message of each image that cannot be decoded, by its place in the batch."""


@dataclass(frozen=True)
class Reader:
    """`read` gives the stored values of each image once, from `threads` threads; in their order where that is one."""

    read: ReadImage
    threads: int = 1


class Decoders:
    """A bounded pool of decoding processes, started when first needed and kept; use as a context manager or `close`.

    May be used from several threads.

    Parameters
    ----------
    processes : int
        0 means one for each core, at most 8; with 1 nothing is started.
    cache : FrameCache, optional
        Where decoded images are kept for other processes and later jobs; without one a folder for temporary files is
        used, and gone with `close`.
    """

    def __init__(self, processes: int = 0, cache: FrameCache | None = None) -> None:
        self.processes = processes or min(8, os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None
        self._given = cache
        self._cache = cache
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._loads = 0

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, once each has done what it has in hand; another use starts them again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        if self._given is None and self._cache is not None:
            shutil.rmtree(self._cache.folder, ignore_errors=True)
            self._cache = None

    @contextmanager
    def reader(self, slices: Sequence[Slice], check: Callable[[], None] = lambda: None) -> "Iterator[Reader | None]":
        """Reads these images, decoded ahead or before; None where all are quicker read where they are.

        `check` is called before each image that others decode, and may raise to stop. As long as the context lasts what
        only arrives waits.
        """
        if any(each.instance.transfer_syntax_uid not in SLOW for each in slices):
            yield None
            return
        with self._loading():
            cache = self._cache
            missing = [index for index, each in enumerate(slices) if cache is None or not _is_in(cache, each)]
            if len(missing) < FEWEST_IMAGES or self.processes < 2:
                threads = min(self.processes, reading_threads())
                yield None if cache is None else Reader(_Kept(cache, slices), threads)
                return
            ahead = _Ahead(self, self._cache_for_pool(), slices, missing, check)
            try:
                yield Reader(ahead)
            finally:
                ahead.close()

    def submit(self, batch: Sequence[Slice]) -> "Future[Refused]":
        """Have images decoded into the cache, whenever a process is free."""
        return self._started().submit(decode_images, self._cache_for_pool(), [_without_header(each) for each in batch])

    def submit_file(self, path: Path) -> "Future[int]":
        """Have all frames of a file decoded into the cache; the number of those that could be."""
        return self._started().submit(decode_file, self._cache_for_pool(), path)

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
                    self.processes, multiprocessing.get_context("spawn"), initializer=_live_as_long_as_parent
                )
            return self._pool

    def _cache_for_pool(self) -> FrameCache:
        with self._lock:
            if self._cache is None:
                self._cache = FrameCache(Path(tempfile.mkdtemp(prefix="overread-decoded-")), TEMPORARY_BYTES)
                self._cache.begin(time.time())
            return self._cache


class _Kept:
    """Images most of which are in the cache; the rest is decoded here."""

    def __init__(self, cache: FrameCache, slices: Sequence[Slice]) -> None:
        self._cache, self._slices = cache, slices

    def __call__(self, index: int, into: np.ndarray) -> None:
        read_once(self._cache, self._slices[index], into)


class _Ahead:
    """The images of one series, asked for in their order, each once; those that are missing are decoded ahead."""

    def __init__(
        self,
        decoders: Decoders,
        cache: FrameCache,
        slices: Sequence[Slice],
        missing: Sequence[int],
        check: Callable[[], None],
    ) -> None:
        self._decoders, self._cache, self._slices, self._check = decoders, cache, slices, check
        self._waiting = deque(missing)
        self._coming: dict[int, tuple[int, Future[Refused]]] = {}
        self._untrimmed_bytes = 0

    def __call__(self, index: int, into: np.ndarray) -> None:
        self._check()
        try:
            self._hand_over()
            place, future = self._coming.pop(index, (0, None))
            refused = future.result() if future is not None else {}
        except BrokenProcessPool:
            self._decoders.close()
            name = self._slices[index].name
            raise Transient(f"a decoding process ended while {name} or one of the next was decoded") from None
        if place in refused:
            raise NotAnalysed(*refused[place])
        read_once(self._cache, self._slices[index], into)
        self._bound()

    def close(self) -> None:
        """Leave what is not begun, and bring the cache within its bounds."""
        for _, future in self._coming.values():
            future.cancel()
        self._cache.trim(time.time())

    def _hand_over(self) -> None:
        processes = self._decoders.processes
        while self._waiting and len(self._coming) <= IMAGES_AHEAD * processes:
            size = max(FEWEST_AT_ONCE, min(IMAGES_AT_ONCE, len(self._waiting) // (2 * processes)))
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            future = self._decoders.submit([self._slices[index] for index in batch])
            self._coming.update({index: (place, future) for place, index in enumerate(batch)})

    def _bound(self) -> None:
        """Images that were read are the oldest ones."""
        self._untrimmed_bytes += self._slices[0].form.frame_bytes
        if self._untrimmed_bytes > self._cache.maximum_bytes // 8:
            self._untrimmed_bytes = 0
            self._cache.trim(time.time())


def read_once(cache: FrameCache, one: Slice, into: np.ndarray) -> None:
    """Stored values of an image from the cache; else decoded here and kept, or waited for where another decodes it.

    Parameters
    ----------
    into : ndarray
        As of `Slice.read`, which tells what is raised. A disk that takes nothing costs time only.
    """
    path, frame, form = one.instance.path, _frame(one), one.form
    if cache.read(path, frame, form, into):
        return
    with cache.claim(path, frame) as claimed:
        if claimed is None and cache.read(path, frame, form, into):
            return
        one.read(into)
        if claimed is not None:
            claimed.keep(into if into.itemsize == form.dtype.itemsize else into.astype(form.dtype))


def decode_images(cache: FrameCache, batch: Sequence[Slice]) -> Refused:
    """Runs in a decoding process; those of the batch that are refused, by their place in it."""
    refused = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        for place, one in enumerate(batch):
            try:
                decode_image(cache, one)
            except NotAnalysed as error:
                refused[place] = error.code, str(error)
    return refused


def decode_image(cache: FrameCache, one: Slice) -> None:
    """Runs in a decoding process: have one image in the cache. Raises NotAnalysed, and Transient without its file."""
    with cache.claim(one.instance.path, _frame(one)) as claimed:
        if claimed is not None:
            values = np.empty(one.form.frame_shape, one.form.dtype)
            one.read(values)
            claimed.keep(values)


def decode_file(cache: FrameCache, path: Path) -> int:
    """Runs in a decoding process. What cannot be decoded is told to who asks for it, by the job that needs it."""
    decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            slices = slices_of([read_instance(path, 1)])
        except (NotAnalysed, Transient):
            return 0
        for one in slices:
            with suppress(NotAnalysed, Transient, OSError):
                decode_image(cache, one)
                decoded += 1
    return decoded


def _frame(one: Slice) -> int:
    return (one.frame_number or 1) - 1


def _is_in(cache: FrameCache, one: Slice) -> bool:
    return cache.has(one.instance.path, _frame(one), one.form)


def _without_header(one: Slice) -> Slice:
    """What decoding needs: the header is large, and holds the patient's name."""
    named = Dataset()
    if "SOPInstanceUID" in one.instance.header:
        named.SOPInstanceUID = str(one.instance.header.SOPInstanceUID)
    places = (one.places[_frame(one)],) * (_frame(one) + 1) if one.places else ()
    return replace(one, instance=replace(one.instance, header=named), header=named, places=places)


def _live_as_long_as_parent() -> None:
    """Leave interrupts to the parent, and end when it is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
