"""Processes that decode compressed images beside the one that loads.

The decoders hold Python's interpreter lock, so threads do not help. Images are decoded a few ahead of the one that is
asked for, which bounds memory; a decoder that takes its process down spoils that attempt, not the node.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from node.errors import NotAnalysed, Transient
from node.volume.decode import read_stored_values
from node.volume.frames import Frames
from node.volume.instance import Instance, open_instance
from node.volume.pixels import PixelFormat
from node.volume.voxels import ReadImage

SLOW = frozenset({uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})
"""Transfer syntaxes worth it: 30 ms of the processor for 512 x 512. JPEG-LS takes 7, RLE 1, handing over 3."""

FEWEST_IMAGES = 24
"""Below it a series is decoded where it is loaded: handing over costs more."""

IMAGES_AHEAD = 3
"""Images that each process may have waiting."""

Decoded = bytes | tuple[str, str]
"""Stored values of one image, or code and message of the refusal."""


class Decoders:
    """A bounded pool of decoding processes, started when first needed and kept; use as a context manager or `close`.

    Parameters
    ----------
    processes : int
        0 means one for each core, at most 8; with 1 nothing is started.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes or min(8, os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def reader(
        self, instances: Sequence[Instance], forms: Sequence[PixelFormat], places: Frames = ()
    ) -> ReadImage | None:
        """Reads these images in their order, decoded ahead; None where that does not pay.

        With `places` they are the frames of one instance, which lie there.
        """
        if self.processes < 2 or len(instances) < FEWEST_IMAGES:
            return None
        if any(instance.transfer_syntax_uid not in SLOW for instance in instances):
            return None
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.processes, multiprocessing.get_context("spawn"), initializer=_live_as_long_as_parent
            )
        return _Ahead(self, self._pool, instances, forms, places)


class _Ahead:
    """The images of one series, in order, each asked for once."""

    def __init__(
        self,
        decoders: Decoders,
        pool: ProcessPoolExecutor,
        instances: Sequence[Instance],
        forms: Sequence[PixelFormat],
        places: Frames,
    ) -> None:
        self._decoders = decoders
        self._pool = pool
        frames: list[Frames] = [(place,) for place in places] or [()] * len(instances)
        self._forms = forms
        self._waiting = iter(zip(instances, forms, frames, strict=True))
        self._names = [instance.name for instance in instances]
        self._coming: deque[Future[Decoded]] = deque()

    def __call__(self, index: int, into: np.ndarray) -> None:
        try:
            while len(self._coming) <= IMAGES_AHEAD * self._decoders.processes:
                try:
                    instance, form, place = next(self._waiting)
                except StopIteration:
                    break
                self._coming.append(self._pool.submit(decode_image, _without_header(instance), form, place))
            decoded = self._coming.popleft().result()
        except BrokenProcessPool:
            self._decoders.close()
            raise Transient(
                f"a decoding process ended while {self._names[index]} or one of the next was decoded"
            ) from None
        except BaseException:
            self._cancel()
            raise
        if isinstance(decoded, tuple):
            self._cancel()
            raise NotAnalysed(*decoded)
        form = self._forms[index]
        into[...] = np.frombuffer(decoded, form.dtype).reshape(form.frame_shape)

    def _cancel(self) -> None:
        for future in self._coming:
            future.cancel()


def decode_image(instance: Instance, form: PixelFormat, place: Frames) -> Decoded:
    """Runs in a decoding process."""
    image = np.empty(form.frame_shape, form.dtype)
    try:
        with warnings.catch_warnings(), open_instance(instance.path) as stream:
            warnings.simplefilter("ignore")  # pydicom's quote values of the data set
            read_stored_values(stream, instance, form, image, place)
    except NotAnalysed as error:
        return error.code, str(error)
    return image.tobytes()


def _without_header(instance: Instance) -> Instance:
    """What decoding needs: the header is large, and holds the patient's name."""
    named = Dataset()
    if "SOPInstanceUID" in instance.header:
        named.SOPInstanceUID = str(instance.header.SOPInstanceUID)
    return replace(instance, header=named)


def _live_as_long_as_parent() -> None:
    """Leave interrupts to the parent, and end when it is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
