"""One frame from its code stream, for each compressed transfer syntax: the decoder is named here and never left to what
happens to be installed.

What a code stream declares of its own size is compared with the header before a decoder may allocate for it.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from pydicom import uid

from node.errors import NotAnalysed
from node.volume.declared import (
    StreamSize,
    jpeg_2000_is_reversible,
    jpeg_2000_size,
    jpeg_size,
    jpeg_xl_size,
    rle_segments_fit,
)
from node.volume.frames import END_OF_IMAGE
from node.volume.pixels import PixelFormat
from node.volume.reason import Reason, refusal

JPEG_XL_LOSSLESS = uid.UID("1.2.840.10008.1.2.4.110")
JPEG_XL_RECOMPRESSION = uid.UID("1.2.840.10008.1.2.4.111")
JPEG_XL = uid.UID("1.2.840.10008.1.2.4.112")
UNCOMPRESSED_FRAMES = uid.UID("1.2.840.10008.1.2.1.98")
DEFLATED_FRAME = uid.UID("1.2.840.10008.1.2.8.1")
"""Transfer syntaxes of PS3.5 A.4 that pydicom does not know."""

LONGEST_RLE_RUN = 128
"""PackBits turns two bytes into at most 128 (PS3.5 G.3.1)."""

DECODER_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, zlib.error)
"""What the decoders raise on a damaged code stream."""

Decode = Callable[[bytes, PixelFormat, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Codec:
    """How the frames of a transfer syntax are decoded.

    Parameters
    ----------
    name : str
        Of the library, for messages.
    decode : callable
        Gives (row, column) or (row, column, sample); in the array given if there is one.
    size : callable, optional
        Reads what a code stream declares of itself; None where only its length says something.
    ends : bool
        Whether a code stream ends with an end of image marker.
    decodes_into : bool
        Whether it takes an array for unsigned samples, of which `size` tells the bits.
    """

    name: str
    decode: Decode
    size: Callable[[bytes], StreamSize | None] | None = None
    ends: bool = False
    decodes_into: bool = False


def _decode_rle(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    values = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype=f"<u{form.bits_allocated // 8}"), form.dtype)
    planes = values.reshape(form.samples, form.rows, form.columns)
    return planes[0] if form.samples == 1 else np.moveaxis(planes, 0, 2)


def _decode_jpeg(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    """Samples as they are stored: colour is converted by what the header says of it, not by what the stream says."""
    space = None if form.samples == 1 else "RGB"
    return np.asarray(imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space, out=into))


def _decode_jpeg_ls(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    return np.asarray(imagecodecs.jpegls_decode(frame, out=into))


def _decode_htj2k(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    """OpenJPH is quicker, but lets values that an irreversible transform brings beyond the range wrap around."""
    if jpeg_2000_is_reversible(frame):
        return np.asarray(imagecodecs.htj2k_decode(frame))
    return np.asarray(imagecodecs.jpeg2k_decode(frame))


def _decode_deflated(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, form.frame_bytes)
    return np.frombuffer(content, form.dtype.newbyteorder("<")).reshape(form.frame_shape)


def _decode_nothing(frame: bytes, form: PixelFormat, into: np.ndarray | None) -> np.ndarray:
    return np.frombuffer(frame[: form.frame_bytes], form.dtype.newbyteorder("<")).reshape(form.frame_shape)


_JPEG = Codec("libjpeg-turbo", _decode_jpeg, jpeg_size, ends=True, decodes_into=True)
_JPEG_LS = Codec("CharLS", _decode_jpeg_ls, jpeg_size, ends=True, decodes_into=True)
_JPEG_2000 = Codec("OpenJPEG", lambda frame, form, into: imagecodecs.jpeg2k_decode(frame), jpeg_2000_size, ends=True)
_HTJ2K = Codec("OpenJPH", _decode_htj2k, jpeg_2000_size, ends=True)
_JPEG_XL = Codec("libjxl", lambda frame, form, into: imagecodecs.jpegxl_decode(frame, numthreads=1), jpeg_xl_size)

CODECS: dict[uid.UID, Codec] = {
    uid.RLELossless: Codec("imagecodecs", _decode_rle),
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG_2000,
    uid.JPEG2000: _JPEG_2000,
    uid.HTJ2KLossless: _HTJ2K,
    uid.HTJ2KLosslessRPCL: _HTJ2K,
    uid.HTJ2K: _HTJ2K,
    JPEG_XL_LOSSLESS: _JPEG_XL,
    JPEG_XL_RECOMPRESSION: _JPEG_XL,
    JPEG_XL: _JPEG_XL,
    DEFLATED_FRAME: Codec("zlib", _decode_deflated),
    UNCOMPRESSED_FRAMES: Codec("numpy", _decode_nothing),
}
"""Every compressed transfer syntax that is read."""


def decode_frame(frame: bytes, syntax: uid.UID, form: PixelFormat, name: str, into: np.ndarray) -> np.ndarray:
    """Decode one frame.

    Parameters
    ----------
    frame : bytes
        Its code stream.
    syntax : UID
        One of `CODECS`.
    form : PixelFormat
        What the header says of it.
    name : str
        How messages call the instance.
    into : ndarray, shape `form.frame_shape`, C-contiguous
        Where the decoder writes if it can; it may be what is returned.

    Returns
    -------
    ndarray
        Shape `form.frame_shape`; samples as they are stored. Those of a JPEG 2000 or JPEG XL stream that was made with
        a colour transform are RGB.

    Raises
    ------
    NotAnalysed
        ``truncated-pixel-data`` or ``undecodable-pixel-data``.
    """
    codec = CODECS[syntax]
    declared = _check_declared_size(frame, codec, form, name)
    bits = declared.bits if declared is not None else None
    is_direct = codec.decodes_into and bits is not None and (bits > 8) == (into.itemsize == 2)
    try:
        values = np.asarray(codec.decode(frame, form, into.view(f"u{into.itemsize}") if is_direct else None))
    except DECODER_ERRORS as error:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{name}: the code stream of {syntax_name(syntax)} is damaged ({type(error).__name__} in {codec.name})",
        ) from None
    if values.shape != form.frame_shape or values.dtype.itemsize * 8 > form.bits_allocated:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{name}: the code stream holds {values.dtype} of shape {values.shape}, the header says "
            f"{form.frame_shape} of {form.bits_allocated} bits",
        )
    return values


def syntax_name(syntax: uid.UID) -> str:
    """Name of a transfer syntax, as far as it has one."""
    return syntax.name if syntax.is_private or syntax.name != str(syntax) else str(syntax)


def _check_declared_size(frame: bytes, codec: Codec, form: PixelFormat, name: str) -> StreamSize | None:
    if codec.size is None:
        most = LONGEST_RLE_RUN if codec.decode is _decode_rle else 1 if codec.decode is _decode_nothing else 1 << 11
        if len(frame) * most < form.frame_bytes:
            raise truncated(name, len(frame), -(-form.frame_bytes // most))
        segments = form.samples * form.bits_allocated // 8
        if codec.decode is _decode_rle and not rle_segments_fit(frame, segments):
            raise refusal(
                Reason.UNDECODABLE_PIXEL_DATA,
                f"{name}: found other RLE segments than those that the frame has room for, wanted {segments}",
            )
        return None
    # CharLS can run for seconds past such an end, OpenJPEG ignores it
    if codec.ends and not frame.rstrip(b"\0\xff").endswith(END_OF_IMAGE):
        raise refusal(
            Reason.TRUNCATED_PIXEL_DATA,
            f"{name}: the code stream of {len(frame)} bytes has no end of image marker (FFD9)",
        )
    declared = codec.size(frame)
    if declared is None:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{name}: found no size in the code stream, wanted {form.rows} x {form.columns}",
        )
    if (declared.rows, declared.columns) != (form.rows, form.columns) or declared.samples not in (None, form.samples):
        samples = "" if declared.samples is None else f" of {declared.samples} samples"
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{name}: the code stream holds {declared.rows} x {declared.columns} pixels{samples}, "
            f"the header says {form.rows} x {form.columns} of {form.samples}",
        )
    return declared


def truncated(name: str, found: int, wanted: int) -> NotAnalysed:
    """The refusal of pixel data that are shorter than they have to be."""
    return refusal(Reason.TRUNCATED_PIXEL_DATA, f"{name}: found {found} bytes of pixel data, wanted at least {wanted}")
