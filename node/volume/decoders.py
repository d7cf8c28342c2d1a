"""Processes that decode compressed images beside the one that loads, or before it does.

The decoders hold Python's interpreter lock, so threads do not help. What a process decoded goes through a `FrameCache`
(the page cache of the system, rarely the disk), so that an image decoded while its series still arrived and one decoded
now come the same way. Images are decoded a few ahead of the one that is asked for; a decoder that takes its process
down spoils that attempt, not the node.
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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from node.errors import NotAnalysed, Transient
from node.volume.cache import FrameCache
from node.volume.codecs import CODECS, DEFLATED_FRAME, UNCOMPRESSED_FRAMES
from node.volume.instance import read_instance
from node.volume.slices import Slice, slices_of
from node.volume.voxels import ReadImage

SLOW = frozenset(CODECS) - {uid.RLELossless, DEFLATED_FRAME, UNCOMPRESSED_FRAMES}
"""Transfer syntaxes worth handing over: 2 to 30 ms of the processor for 512 x 512; handing over takes half of one."""

FEWEST_IMAGES = 24
"""Below it a series is decoded where it is loaded: starting to hand over costs more."""

IMAGES_AHEAD = 3
"""Images that each process may have waiting."""

TEMPORARY_BYTES = 1 << 30
"""Largest cache of decoders that were given none."""

Refusal = tuple[str, str]
"""Code and message of an image that cannot be decoded."""


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

    def reader(self, slices: Sequence[Slice], check: Callable[[], None] = lambda: None) -> ReadImage | None:
        """Reads these images in their order, decoded ahead; None where all are quicker read where they are.

        `check` is called before each image, and may raise to stop.
        """
        if any(each.instance.transfer_syntax_uid not in SLOW for each in slices):
            return None
        cache = self._cache
        missing = [cache is None or not _is_in(cache, each) for each in slices]
        if sum(missing) < FEWEST_IMAGES or self.processes < 2:
            return None if cache is None or all(missing) else _Kept(cache, slices)
        return _Ahead(self, self._cache_for_pool(), slices, missing, check)

    def submit(self, one: Slice) -> "Future[Refusal | None]":
        """Have one image decoded into the cache, whenever a process is free; None where that succeeded."""
        return self._started().submit(decode_image, self._cache_for_pool(), _without_header(one))

    def submit_file(self, path: Path) -> "Future[int]":
        """Have all frames of a file decoded into the cache; the number of those that could be."""
        return self._started().submit(decode_file, self._cache_for_pool(), path)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.processes, multiprocessing.get_context("spawn"), initializer=_live_as_long_as_parent
                )
            return self._pool

    def _cache_for_pool(self) -> FrameCache:
        if self._cache is None:
            self._cache = FrameCache(Path(tempfile.mkdtemp(prefix="overread-decoded-")), TEMPORARY_BYTES)
            self._cache.begin()
        return self._cache


class _Kept:
    """Images most of which are in the cache."""

    def __init__(self, cache: FrameCache, slices: Sequence[Slice]) -> None:
        self._cache, self._slices = cache, slices

    def __call__(self, index: int, into: np.ndarray) -> None:
        one = self._slices[index]
        if not self._cache.read(one.instance.path, _frame(one), one.form, into):
            one.read(into)


class _Ahead(_Kept):
    """The images of one series, in order, each asked for once; those that are missing are decoded ahead."""

    def __init__(
        self,
        decoders: Decoders,
        cache: FrameCache,
        slices: Sequence[Slice],
        missing: Sequence[bool],
        check: Callable[[], None],
    ) -> None:
        super().__init__(cache, slices)
        self._decoders, self._check = decoders, check
        self._waiting = deque(index for index, is_missing in enumerate(missing) if is_missing)
        self._coming: dict[int, Future[Refusal | None]] = {}

    def __call__(self, index: int, into: np.ndarray) -> None:
        try:
            self._check()
            while self._waiting and len(self._coming) <= IMAGES_AHEAD * self._decoders.processes:
                following = self._waiting.popleft()
                self._coming[following] = self._decoders.submit(self._slices[following])
            future = self._coming.pop(index, None)
            refused = future.result() if future is not None else None
        except BrokenProcessPool:
            self._decoders.close()
            name = self._slices[index].name
            raise Transient(f"a decoding process ended while {name} or one of the next was decoded") from None
        except BaseException:
            self._cancel()
            raise
        if refused is not None:
            self._cancel()
            raise NotAnalysed(*refused)
        super().__call__(index, into)
        if index == len(self._slices) - 1:
            self._cache.trim(time.time())

    def _cancel(self) -> None:
        for future in self._coming.values():
            future.cancel()


def decode_image(cache: FrameCache, one: Slice) -> Refusal | None:
    """Runs in a decoding process. What the disk does not take is decoded again by who asks for it."""
    if _is_in(cache, one):
        return None
    values = np.empty(one.form.frame_shape, one.form.dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values of the data set
            one.read(values)
        cache.write(one.instance.path, _frame(one), values)
    except NotAnalysed as error:
        return error.code, str(error)
    except OSError:
        return None
    return None


def decode_file(cache: FrameCache, path: Path) -> int:
    """Runs in a decoding process. What cannot be decoded is told to who asks for it, by the job that needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            slices = slices_of([read_instance(path, 1)])
        except (NotAnalysed, Transient):
            return 0
    return sum(decode_image(cache, one) is None for one in slices)


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
