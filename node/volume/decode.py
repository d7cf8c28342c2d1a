"""Stored values of one frame from its bytes on disk, for each transfer syntax that is read.

Native pixel data go by numpy or straight into their place; the rest through the decoder that `codecs` names.
"""

from typing import BinaryIO

import numpy as np
from pydicom import uid

from node.volume.codecs import CODECS, decode_frame, syntax_name, truncated
from node.volume.frames import Frames, locate_frames, read_code_stream
from node.volume.instance import UNDEFINED_LENGTH, Instance
from node.volume.pixels import PixelFormat
from node.volume.reason import Reason, refusal

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
RAW_BITS = NATIVE | {uid.RLELossless}
"""Transfer syntaxes that keep every allocated bit, so that a value may lie elsewhere than in the lowest ones."""


def check_readable(instance: Instance) -> None:
    """Refuse an instance without pixel data or in a transfer syntax without a decoder."""
    if instance.pixel_offset is None:
        raise refusal(Reason.NO_PIXEL_DATA, f"{instance.name} has no Pixel Data (7FE0,0010)")
    syntax = instance.transfer_syntax_uid
    if syntax not in NATIVE and syntax not in CODECS:
        raise refusal(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"{instance.name} has transfer syntax {syntax_name(syntax)}; wanted native, RLE, JPEG, JPEG-LS, JPEG 2000, "
            "HTJ2K, JPEG XL or deflated",
        )


def find_frames(stream: BinaryIO, instance: Instance, form: PixelFormat) -> Frames:
    """Where the frames lie; empty for native pixel data, which are proven to be long enough.

    Raises
    ------
    NotAnalysed
        ``truncated-pixel-data``, ``no-pixel-data`` or ``undecodable-pixel-data``.
    """
    if form.high_bit is not None and instance.transfer_syntax_uid not in RAW_BITS:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"{instance.name}: found High Bit {form.high_bit} in a compressed image, wanted {form.bits_stored - 1}",
        )
    if instance.transfer_syntax_uid not in NATIVE:
        return locate_frames(stream, instance, form)
    wanted = form.frames * native_bytes(form)
    if instance.pixel_length == UNDEFINED_LENGTH:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: found native Pixel Data of undefined length, wanted {wanted} bytes",
        )
    assert instance.pixel_offset is not None
    found = min(instance.pixel_length, stream.seek(0, 2) - instance.pixel_offset)
    if found < wanted:
        raise truncated(instance.name, found, wanted)
    return ()


def native_bytes(form: PixelFormat) -> int:
    """Length of one native frame; YBR_FULL_422 holds colour once for two pixels (PS3.3 C.7.6.3.1.2)."""
    return form.frame_bytes * 2 // 3 if is_halved(form) else form.frame_bytes


def is_halved(form: PixelFormat) -> bool:
    """Whether the colour of a native frame is stored once for two pixels."""
    return form.samples == 3 and form.photometric_interpretation == "YBR_FULL_422"


def read_stored_values(
    stream: BinaryIO, instance: Instance, form: PixelFormat, into: np.ndarray, frames: Frames = (), frame: int = 0
) -> None:
    """Read one frame into `into`.

    Parameters
    ----------
    stream : BinaryIO
        As `open_instance` gives it.
    instance, form
        Its header and pixel format.
    into : ndarray, shape `form.frame_shape`, C-contiguous
        Takes the stored values, int16 or uint16 (or the type of `form`); bits around the stored ones (old overlays) are
        cleared, or follow the sign.
    frames : Frames, optional
        As `find_frames` gave them, so that those of many frames are looked for once.
    frame : int
        From 0.

    Raises
    ------
    NotAnalysed
        ``truncated-pixel-data`` or ``undecodable-pixel-data``.
    """
    frames = frames or find_frames(stream, instance, form)
    if instance.transfer_syntax_uid in NATIVE:
        _read_native(stream, instance, form, into, frame)
    else:
        code_stream = read_code_stream(stream, frames[frame])
        values = decode_frame(code_stream, instance.transfer_syntax_uid, form, instance.name, into)
        if not np.may_share_memory(values, into):
            into[...] = values.view(form.dtype) if values.dtype.itemsize == form.dtype.itemsize else values
    keep_stored_bits(into, form)


def _read_native(stream: BinaryIO, instance: Instance, form: PixelFormat, into: np.ndarray, frame: int) -> None:
    wanted = native_bytes(form)
    assert instance.pixel_offset is not None
    start = instance.pixel_offset + frame * wanted
    if form.bits_allocated == 16 and form.samples == 1:
        stream.seek(start)
        found = stream.readinto(into.view(np.uint8).data)  # type: ignore[attr-defined]
        if found < wanted:
            raise truncated(instance.name, found, wanted)
        if not instance.is_little_endian:
            into.byteswap(inplace=True)
        return
    swapped = not instance.is_little_endian and instance.pixel_vr == "OW" and form.bits_allocated == 8
    before = start % 2 if swapped else 0  # PS3.5 8.1.1: bytes lie in 16 bit words
    stream.seek(start - before)
    content = stream.read(before + wanted + (before + wanted) % 2 if swapped else wanted)
    if len(content) < before + wanted:
        raise truncated(instance.name, len(content), wanted)
    if swapped:
        content = (
            np.frombuffer(content, np.uint8).reshape(-1, 2)[:, ::-1].reshape(-1)[before : before + wanted].tobytes()
        )
    values = np.frombuffer(content, form.dtype.newbyteorder("<" if instance.is_little_endian else ">"))
    into[...] = _arranged(values, form)


def _arranged(values: np.ndarray, form: PixelFormat) -> np.ndarray:
    """Native samples as (row, column) or (row, column, sample)."""
    if is_halved(form):  # Y1 Y2 Cb Cr for each two pixels of a row
        pairs = values.reshape(form.rows, form.columns // 2, 4)
        halved = np.empty((form.rows, form.columns // 2, 2, 3), values.dtype)
        halved[..., 0] = pairs[..., :2]
        halved[..., 1:] = pairs[..., None, 2:]
        return halved.reshape(form.frame_shape)
    if form.is_planar:
        return np.moveaxis(values.reshape(form.samples, form.rows, form.columns), 0, 2)
    return values.reshape(form.frame_shape)


def keep_stored_bits(values: np.ndarray, form: PixelFormat) -> None:
    """Clear the bits around the stored ones in place; they follow the sign in a signed image."""
    width = values.dtype.itemsize * 8
    below = 0 if form.high_bit is None else form.high_bit + 1 - form.bits_stored
    if form.bits_stored == form.bits_allocated:
        return
    lowest, highest = form.stored_range
    bits = values.view(f"{'i' if form.is_signed else 'u'}{width // 8}")
    if not below and (not form.is_signed or bits.min() >= lowest) and bits.max() <= highest:
        return
    np.left_shift(bits, width - form.bits_stored - below, out=bits)
    np.right_shift(bits, width - form.bits_stored, out=bits)
