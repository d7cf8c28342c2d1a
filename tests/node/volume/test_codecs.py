"""Code streams: the size that they declare, and what has no second decoder."""

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from node.errors import NotAnalysed
from node.volume import load_image
from node.volume.codecs import DEFLATED_FRAME, JPEG_XL, JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION, UNCOMPRESSED_FRAMES
from node.volume.declared import StreamSize, jpeg_2000_size, jpeg_size, jpeg_xl_size
from tests.node.volume.images import write_image

PLANE = (np.add.outer(np.arange(48) * 60, np.arange(40) * 7)).astype(np.uint16)
SIZE = {"Rows": 48, "Columns": 40, "BitsAllocated": 16, "BitsStored": 12}


@pytest.mark.parametrize("syntax", [JPEG_XL_LOSSLESS, JPEG_XL])
@pytest.mark.parametrize("in_boxes", [False, True])
def test_jpeg_xl(tmp_path: Path, syntax: uid.UID, in_boxes: bool) -> None:
    stream = imagecodecs.jpegxl_encode(PLANE, lossless=True, usecontainer=in_boxes)
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=syntax, **SIZE)
    np.testing.assert_array_equal(load_image(path).pixels[0], PLANE)


def test_jpeg_recompressed_as_jpeg_xl(tmp_path: Path) -> None:
    jpeg = imagecodecs.jpeg8_encode((PLANE >> 4).astype(np.uint8), level=95)
    settings = {**SIZE, "BitsAllocated": 8, "BitsStored": 8}
    path = write_image(
        tmp_path / "a.dcm",
        streams=[imagecodecs.jpegxl_encode_jpeg(jpeg)],
        transfer_syntax=JPEG_XL_RECOMPRESSION,
        **settings,
    )
    difference = load_image(path).pixels[0].astype(int) - imagecodecs.jpeg8_decode(jpeg)
    assert np.abs(difference).max() <= 1


def test_deflated_frames(tmp_path: Path) -> None:
    frames = [PLANE, PLANE[::-1]]
    streams = []
    for frame in frames:
        pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        streams.append(pack.compress(np.ascontiguousarray(frame).tobytes()) + pack.flush())
    path = write_image(tmp_path / "a.dcm", streams=streams, transfer_syntax=DEFLATED_FRAME, NumberOfFrames=2, **SIZE)
    np.testing.assert_array_equal(load_image(path).pixels, np.array(frames))


def test_uncompressed_fragments(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.dcm", streams=[PLANE.tobytes()], transfer_syntax=UNCOMPRESSED_FRAMES, **SIZE)
    np.testing.assert_array_equal(load_image(path).pixels[0], PLANE)


@pytest.mark.parametrize("rows", [1, 7, 8, 256, 257, 512, 8192, 8193, 70000])
@pytest.mark.parametrize("columns", [1, 8, 300, 513])
def test_jpeg_xl_says_its_size(rows: int, columns: int) -> None:
    stream = imagecodecs.jpegxl_encode(np.zeros((rows, columns), np.uint8), lossless=True, effort=1)
    assert jpeg_xl_size(stream) == StreamSize(rows, columns, None)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1)])
def test_jpeg_xl_says_its_size_by_a_ratio(width: int, height: int) -> None:
    stream = imagecodecs.jpegxl_encode(np.zeros((height * 24, width * 24), np.uint8), lossless=True, effort=1)
    assert jpeg_xl_size(stream) == StreamSize(height * 24, width * 24, None)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 40, b"\xff\xd8\xff", b"\xff" * 50]
)
def test_no_size(content: bytes) -> None:
    assert jpeg_xl_size(content) is None
    assert jpeg_size(content) is None
    assert jpeg_2000_size(content) is None


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode),
        (uid.JPEG2000Lossless, lambda plane: imagecodecs.jpeg2k_encode(plane, codecformat="J2K", reversible=True)),
        (uid.HTJ2KLossless, lambda plane: imagecodecs.htj2k_encode(plane, reversible=True)),
        (JPEG_XL_LOSSLESS, lambda plane: imagecodecs.jpegxl_encode(plane, lossless=True)),
    ],
    ids=["JPEG-LS", "JPEG lossless", "JPEG 2000", "HTJ2K", "JPEG XL"],
)
def test_stream_larger_than_the_header_says_is_refused_before_it_is_decoded(
    tmp_path: Path, syntax: uid.UID, encode
) -> None:
    stream = encode(np.zeros((1000, 1000), np.uint16))
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=syntax, **SIZE)
    with pytest.raises(NotAnalysed, match="holds 1000 x 1000 pixels") as caught:
        load_image(path)
    assert caught.value.code == "undecodable-pixel-data"


@pytest.mark.parametrize("place", [24, 28], ids=["width", "height"])
def test_tiles_of_no_size_are_refused_before_they_are_decoded(tmp_path: Path, place: int) -> None:
    """OpenJPH divides by them: the process would end (T.800 A.5.1: 1 at least)."""
    stream = imagecodecs.htj2k_encode(np.zeros((SIZE["Rows"], SIZE["Columns"]), np.uint16), reversible=True)
    assert jpeg_2000_size(stream) is not None
    stream = stream[:place] + bytes(4) + stream[place + 4 :]
    assert jpeg_2000_size(stream) is None
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=uid.HTJ2KLossless, **SIZE)
    with pytest.raises(NotAnalysed, match="no size in the code stream") as caught:
        load_image(path)
    assert caught.value.code == "undecodable-pixel-data"


def test_deflated_bomb_stops_at_the_size_of_the_frame(tmp_path: Path) -> None:
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = pack.compress(bytes(1 << 24)) + pack.flush()
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=DEFLATED_FRAME, **SIZE)
    assert not load_image(path).pixels.any()


def test_frame_that_cannot_unpack_to_its_size_is_refused(tmp_path: Path) -> None:
    settings = {**SIZE, "Rows": 8000, "Columns": 8000}
    path = write_image(tmp_path / "a.dcm", streams=[b"\x03\x00" * 50], transfer_syntax=DEFLATED_FRAME, **settings)
    with pytest.raises(NotAnalysed, match="found 100 bytes of pixel data") as caught:
        load_image(path)
    assert caught.value.code == "truncated-pixel-data"
