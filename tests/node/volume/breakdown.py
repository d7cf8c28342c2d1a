"""A JPEG-LS decoder that breaks down, or comes to no end, with streams that ask for it."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame

BREAKS_DOWN, NEVER_ENDS = b"breaks down", b"never ends"

SITE = f"""
import signal, threading
import imagecodecs
whole = imagecodecs.jpegls_decode
def jpegls_decode(stream, *arguments, **options):
    if {BREAKS_DOWN!r} in stream[:40]:
        signal.raise_signal(signal.SIGSEGV)  # in this thread, as a fault comes: it does nothing any more
    if {NEVER_ENDS!r} in stream[:40]:
        threading.Event().wait()
    return whole(stream, *arguments, **options)
imagecodecs.jpegls_decode = jpegls_decode
"""


def use_frail_decoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every Python that is started from now on; this process keeps the whole one."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[3]}")


def ask_for(path: Path, what: bytes) -> str:
    """Have the decoder do this with a JPEG-LS image: a comment in its stream asks for it; its SOP Instance UID."""
    image = dcmread(path)
    stream = get_frame(image.PixelData, 0)
    comment = b"\xff\xfe" + (len(what) + 2).to_bytes(2, "big") + what
    image.PixelData = encapsulate([stream[:2] + comment + stream[2:]])
    image.save_as(path)
    return str(image.SOPInstanceUID)
