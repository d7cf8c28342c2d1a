"""Stored values of one image from its bytes on disk, for each transfer syntax that is read.

Native pixel data go by numpy or straight into the volume; the rest through pydicom's decoders, with the
plugin named here and never left to what happens to be installed. What a code stream declares of itself is
compared with the header before a decoder may allocate for it.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from node.errors import NotAnalysed
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

PLUGINS = {
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGBaseline8Bit: "pillow",
}
"""Transfer syntax and the plugin that decodes it (CharLS, OpenJPEG, pylibjpeg-rle, gdcm, Pillow)."""

DECODER_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    KeyError,
    IndexError,
    OSError,
)
"""What pydicom's plugins raise on a damaged code stream."""

LONGEST_RLE_RUN = 128
"""PackBits turns two bytes into at most 128 (PS3.5 G.3.1)."""


@dataclass(frozen=True)
class StreamSize:
    """Size that a code stream declares of itself."""

    rows: int
    columns: int
    samples: int


def check_readable(instance: Instance) -> None:
    """Refuse an instance without pixel data or in a transfer syntax without a decoder."""
    if instance.pixel_offset is None:
        raise refusal(Reason.NO_PIXEL_DATA, f"{instance.name} has no Pixel Data (7FE0,0010)")
    syntax = instance.transfer_syntax_uid
    if syntax not in NATIVE and syntax not in PLUGINS:
        raise refusal(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"{instance.name} has transfer syntax {syntax.name if syntax.is_transfer_syntax else syntax}; "
            "wanted native, RLE, JPEG baseline, JPEG lossless, JPEG-LS, JPEG 2000 or HTJ2K",
        )


def read_stored_values(stream: BinaryIO, instance: Instance, form: PixelFormat, into: np.ndarray) -> None:
    """Read one image into `into`.

    Parameters
    ----------
    stream : BinaryIO
        As `open_instance` gives it.
    instance, form
        Its header and pixel format.
    into : ndarray of int16 or uint16, shape (row, column), C-contiguous
        Takes the stored values; bits above Bits Stored (old overlays) are cleared, or follow the sign.

    Raises
    ------
    NotAnalysed
        ``truncated-pixel-data`` or ``undecodable-pixel-data``.
    """
    if instance.transfer_syntax_uid in NATIVE:
        _read_native(stream, instance, form, into)
    else:
        frame = _read_frame(stream, instance)
        _check_declared_size(frame, instance, form)
        into[...] = _decode(frame, instance, form)
    keep_stored_bits(into, form)


def _read_native(stream: BinaryIO, instance: Instance, form: PixelFormat, into: np.ndarray) -> None:
    wanted = form.frame_bytes
    if instance.pixel_length == UNDEFINED_LENGTH:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: found native Pixel Data of undefined length, wanted {wanted} bytes",
        )
    if instance.pixel_length < wanted:
        raise _truncated(instance, instance.pixel_length, wanted)
    assert instance.pixel_offset is not None
    stream.seek(instance.pixel_offset)
    if form.bits_allocated == 16:
        found = stream.readinto(into.view(np.uint8).data)  # type: ignore[attr-defined]
        if found < wanted:
            raise _truncated(instance, found, wanted)
        if not instance.is_little_endian:
            into.byteswap(inplace=True)
        return
    swapped = not instance.is_little_endian and instance.pixel_vr == "OW"  # PS3.5 8.1.1: bytes lie in 16 bit words
    content = stream.read(wanted + wanted % 2 if swapped else wanted)
    if len(content) < wanted:
        raise _truncated(instance, len(content), wanted)
    values = np.frombuffer(content, np.int8 if form.is_signed else np.uint8)
    if swapped:
        values = values.reshape(-1, 2)[:, ::-1].reshape(-1)[:wanted]
    into[...] = values.reshape(into.shape)


def _read_frame(stream: BinaryIO, instance: Instance) -> bytes:
    """The code stream of encapsulated pixel data (PS3.5 A.4): all fragments after the offset table,
    joined.
    """
    if instance.pixel_length != UNDEFINED_LENGTH:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: found compressed Pixel Data of defined length, wanted fragments",
        )
    assert instance.pixel_offset is not None
    stream.seek(instance.pixel_offset)
    fragments: list[bytes] = []
    while True:
        start = stream.read(8)
        if len(start) < 8:
            raise _truncated_fragments(instance, len(fragments))
        group, element, length = struct.unpack("<HHL", start)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000):
            raise refusal(
                Reason.UNDECODABLE_PIXEL_DATA,
                f"{instance.name}: found tag ({group:04X},{element:04X}) among fragments, wanted items",
            )
        fragments.append(stream.read(length))
        if len(fragments[-1]) < length:
            raise _truncated_fragments(instance, len(fragments))
    if len(fragments) < 2 or not any(fragments[1:]):
        raise refusal(Reason.NO_PIXEL_DATA, f"{instance.name} has encapsulated Pixel Data without a fragment")
    return b"".join(fragments[1:])


def _check_declared_size(frame: bytes, instance: Instance, form: PixelFormat) -> None:
    syntax = instance.transfer_syntax_uid
    if syntax == uid.RLELossless:
        if len(frame) * LONGEST_RLE_RUN < form.frame_bytes:
            raise _truncated(instance, len(frame), form.frame_bytes // LONGEST_RLE_RUN)
        return
    if not frame.rstrip(b"\0\xff").endswith(
        END_OF_IMAGE
    ):  # CharLS can run for seconds past such an end, OpenJPEG ignores it
        raise refusal(
            Reason.TRUNCATED_PIXEL_DATA,
            f"{instance.name}: the code stream of {len(frame)} bytes has no end of image marker (FFD9)",
        )
    declared = jpeg_2000_size(frame) if frame[:4] in JPEG_2000_STARTS else jpeg_size(frame)
    if declared is None:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: found no size in the code stream, wanted {form.rows} x {form.columns}",
        )
    if declared != StreamSize(form.rows, form.columns, 1):
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: the code stream holds {declared.rows} x {declared.columns} pixels of "
            f"{declared.samples} samples, the header says {form.rows} x {form.columns} of 1",
        )


END_OF_IMAGE = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""
JPEG_2000_STARTS = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c")
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Second byte of the JPEG (ITU-T T.81 B.1.1.3) and JPEG-LS (T.87 C.1.1) start of frame markers."""


def jpeg_size(frame: bytes) -> StreamSize | None:
    """Size in the start of frame of a JPEG or JPEG-LS stream, or None."""
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 < len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in START_OF_FRAME:
            rows, columns, samples = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return StreamSize(rows, columns, samples)
        at += 1 if marker == 0xFF else 2 + length
    return None


def jpeg_2000_size(frame: bytes) -> StreamSize | None:
    """Size in the SIZ marker of a JPEG 2000 stream (T.800 A.5.1), which may lie in a JP2 file, or None."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or len(frame) < at + 42:
        return None
    width, height, left, top = struct.unpack(">4L", frame[at + 8 : at + 24])
    return StreamSize(height - top, width - left, int.from_bytes(frame[at + 40 : at + 42], "big"))


def _decode(frame: bytes, instance: Instance, form: PixelFormat) -> np.ndarray:
    image = Dataset()
    image.Rows, image.Columns, image.SamplesPerPixel = form.rows, form.columns, 1
    image.BitsAllocated, image.BitsStored, image.HighBit = (
        form.bits_allocated,
        form.bits_stored,
        form.bits_stored - 1,
    )
    image.PixelRepresentation, image.PhotometricInterpretation = int(form.is_signed), "MONOCHROME2"
    image.NumberOfFrames = 1
    image.PixelData = encapsulate([frame])
    image["PixelData"].VR = "OB"
    syntax = instance.transfer_syntax_uid
    decoder = get_decoder(syntax)
    image.file_meta = _meta(syntax)
    try:
        values, _ = decoder.as_array(image, raw=True, decoding_plugin=PLUGINS[syntax])
    except DECODER_ERRORS as error:
        raise _damaged(instance, error) from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # pylibjpeg-rle is Rust, and its panic is no Exception
            raise _damaged(instance, error) from None
        raise
    return values


def _damaged(instance: Instance, error: BaseException) -> NotAnalysed:
    syntax = instance.transfer_syntax_uid
    return refusal(
        Reason.UNDECODABLE_PIXEL_DATA,
        f"{instance.name}: the code stream of {syntax.name} is damaged ({type(error).__name__} in {PLUGINS[syntax]})",
    )


def _meta(syntax: uid.UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    return meta


def keep_stored_bits(values: np.ndarray, form: PixelFormat) -> None:
    unused = 16 - form.bits_stored
    if form.bits_allocated == 8 or unused == 0:
        return
    lowest, highest = form.stored_range
    if (not form.is_signed or values.min() >= lowest) and values.max() <= highest:
        return
    bits = values.view(np.int16 if form.is_signed else np.uint16)
    np.left_shift(bits, unused, out=bits)
    np.right_shift(bits, unused, out=bits)


def _truncated(instance: Instance, found: int, wanted: int) -> NotAnalysed:
    return refusal(
        Reason.TRUNCATED_PIXEL_DATA,
        f"{instance.name}: found {found} bytes of pixel data, wanted at least {wanted}",
    )


def _truncated_fragments(instance: Instance, found: int) -> NotAnalysed:
    return refusal(
        Reason.TRUNCATED_PIXEL_DATA,
        f"{instance.name}: the file ends in its pixel data, after {found} items; wanted a sequence delimiter",
    )
