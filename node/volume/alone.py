"""One image decoded in a process of its own: for an image with which a decoder broke down before.

What ends that process is the image, so the answer is sure, and nothing else ends with it.
"""

import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import numpy as np
from pydicom.dataset import Dataset

from node.errors import NotAnalysed, Transient
from node.volume.codecs import syntax_name
from node.volume.reason import Reason
from node.volume.slices import Slice

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""What ends a process that is not its own doing: an administrator, or the system for want of memory."""


class BrokenDecoder(NotAnalysed):
    """``undecodable-pixel-data``: the decoder broke down, or came to no end, with this image and nothing else."""


def decode_alone(one: Slice, longest_seconds: float) -> np.ndarray:
    """Stored values of an image, shape `form.frame_shape`, decoded in a process that is started for it.

    Raises
    ------
    BrokenDecoder
        When the process breaks down, or is not done after `longest_seconds`.
    NotAnalysed
        As `Slice.read`.
    Transient
        When the file cannot be read, or the process was ended from outside.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_decode_and_send, args=(without_header(one), theirs, longest_seconds), daemon=True)
    process.start()
    theirs.close()
    with ours:
        try:
            refused = json.loads(ours.recv_bytes())
            values = None if refused else np.frombuffer(ours.recv_bytes(), one.form.dtype)
        except EOFError:
            process.join()
            raise _ended(process.exitcode or 0, one, longest_seconds) from None
        process.join()
    if values is None:
        raise NotAnalysed(*refused)
    return values.reshape(one.form.frame_shape)


def _ended(exit_code: int, one: Slice, longest_seconds: float) -> NotAnalysed | Transient:
    if exit_code >= 0:
        return Transient(f"{one.name} cannot be read by a process of its own")
    if -exit_code in FROM_OUTSIDE:
        return Transient(f"the process that decoded {one.name} was ended from outside")
    by = signal.Signals(-exit_code)
    what = f"does not end within {longest_seconds:g} s" if by is signal.SIGALRM else f"breaks down ({by.name})"
    syntax = syntax_name(one.instance.transfer_syntax_uid)
    return BrokenDecoder(Reason.UNDECODABLE_PIXEL_DATA, f"{one.name}: the decoder of {syntax} {what}")


def _decode_and_send(one: Slice, answer: Connection, longest_seconds: float) -> None:
    """Runs in the process: sends code and message of a refusal, or nothing and then the values."""
    live_as_long_as_parent()
    values = np.empty(one.form.frame_shape, one.form.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        try:
            with ended_after(longest_seconds):
                one.read(values)
        except NotAnalysed as error:
            answer.send_bytes(json.dumps([error.code, str(error)]).encode())
            return
        except (Transient, OSError, MemoryError):
            os._exit(1)
    answer.send_bytes(json.dumps([]).encode())
    answer.send_bytes(values.data.cast("B"))


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """The system ends this process if the body is not done by then; for the main thread of a decoding process."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def live_as_long_as_parent() -> None:
    """Leave interrupts to the parent, and end when it is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def without_header(one: Slice) -> Slice:
    """What decoding needs: the header is large, and holds the patient's name."""
    frame = (one.frame_number or 1) - 1
    named = Dataset()
    if "SOPInstanceUID" in one.instance.header:
        named.SOPInstanceUID = str(one.instance.header.SOPInstanceUID)
    places = (one.places[frame],) * (frame + 1) if one.places else ()
    return replace(one, instance=replace(one.instance, header=named), header=named, places=places)
