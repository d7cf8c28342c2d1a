"""Each decoder in use gives, bit for bit, what a second one gives that was made by others."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid

from node.volume.codecs import (
    CODECS,
    DEFLATED_FRAME,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    JPEG_XL_RECOMPRESSION,
    UNCOMPRESSED_FRAMES,
)
from node.volume.decode import read_stored_values
from node.volume.instance import open_instance, read_instance
from node.volume.pixels import read_format
from tests.conftest import program
from tests.node.volume.images import write_image
from tests.phantoms import write_series

CHANCE = np.random.default_rng(5)
SHADES = np.add.outer(np.arange(48), np.arange(40)) * 30 + CHANCE.integers(0, 60, (48, 40))
PLANES = {
    "8 bits": (SHADES >> 4).astype(np.uint8),
    "12 bits": SHADES.astype(np.uint16),
    "16 bits": (SHADES * 20).astype(np.uint16),
}

ENCODERS: dict[uid.UID, Callable[[np.ndarray], bytes]] = {
    uid.JPEGLossless: lambda plane: imagecodecs.jpeg8_encode(plane, lossless=True, predictor=4),
    uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: lambda plane: imagecodecs.jpegls_encode(plane, level=3),
    uid.JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(plane, codecformat="J2K", reversible=True, level=0),
    uid.JPEG2000: lambda plane: imagecodecs.jpeg2k_encode(plane, codecformat="J2K", level=45),
    uid.HTJ2KLossless: lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    uid.HTJ2KLosslessRPCL: lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    uid.HTJ2K: lambda plane: imagecodecs.htj2k_encode(plane, level=0.08, reversible=False),
    uid.JPEGBaseline8Bit: lambda plane: imagecodecs.jpeg8_encode(plane, level=90),
}
LOSSLESS = frozenset(ENCODERS) - {uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K, uid.JPEGBaseline8Bit}
SECOND = {
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.JPEGBaseline8Bit: "pillow",
}
OTHERWISE = {
    uid.RLELossless: "test_rle_in_every_depth",
    uid.JPEGExtended12Bit: "test_12_bit_jpeg_as_dcmtk_decodes_it",
    JPEG_XL: "test_codecs: no second decoder is permissive",
    JPEG_XL_LOSSLESS: "test_codecs: no second decoder is permissive",
    JPEG_XL_RECOMPRESSION: "test_codecs: no second decoder is permissive",
    DEFLATED_FRAME: "test_codecs",
    UNCOMPRESSED_FRAMES: "test_codecs",
}


def stored_values(path: Path) -> np.ndarray:
    instance = read_instance(path, 1)
    form = read_format(instance.header, instance.name)
    values = np.empty((form.rows, form.columns), form.dtype)
    with open_instance(path) as stream:
        read_stored_values(stream, instance, form, values)
    return values


def described(plane: np.ndarray) -> dict[str, Any]:
    allocated = plane.dtype.itemsize * 8
    stored = max(2, int(plane.max()).bit_length())
    return {"Rows": 48, "Columns": 40, "BitsAllocated": allocated, "BitsStored": stored}


def test_a_lossy_stream_does_not_wrap_around_at_the_ends_of_its_range(tmp_path: Path) -> None:
    plane = np.where((np.indices((48, 40)) // 5).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    stream = imagecodecs.htj2k_encode(plane, level=0.1, reversible=False)
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=uid.HTJ2K, **described(plane))
    assert np.abs(stored_values(path).astype(int) - plane).max() < 128


def test_every_decoder_has_a_second_one() -> None:
    assert set(CODECS) == set(ENCODERS) | set(OTHERWISE)


@pytest.mark.parametrize(
    "syntax, depth",
    [
        pytest.param(syntax, depth, id=f"{syntax.keyword}-{depth}")
        for syntax in ENCODERS
        for depth in PLANES
        if syntax != uid.JPEGBaseline8Bit or depth == "8 bits"
    ],
)
def test_second_decoder_agrees(tmp_path: Path, depth: str, syntax: uid.UID) -> None:
    plane = PLANES[depth]
    path = write_image(
        tmp_path / "a.dcm", streams=[ENCODERS[syntax](plane)], transfer_syntax=syntax, **described(plane)
    )
    values = stored_values(path)
    image = dcmread(path)
    image.pixel_array_options(decoding_plugin=SECOND[syntax], raw=True)
    np.testing.assert_array_equal(values, image.pixel_array)
    if syntax in LOSSLESS:
        np.testing.assert_array_equal(values, plane)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless], ids=lambda u: u.keyword)
def test_signed_values(tmp_path: Path, syntax: uid.UID) -> None:
    voxels = (SHADES * 12 - 16000).astype(np.int16)[None]
    path = write_series(tmp_path, shape=voxels.shape, voxels=voxels, transfer_syntax=syntax)[0]
    np.testing.assert_array_equal(stored_values(path), voxels[0])


@pytest.mark.parametrize("depth", PLANES)
def test_rle_in_every_depth(tmp_path: Path, depth: str) -> None:
    path = write_image(tmp_path / "a.dcm", PLANES[depth], **described(PLANES[depth]))
    image = dcmread(path)
    image.compress(uid.RLELossless, generate_instance_uid=False)
    image.save_as(path)
    image = dcmread(path)
    image.pixel_array_options(decoding_plugin="pydicom", raw=True)
    np.testing.assert_array_equal(stored_values(path), image.pixel_array)
    np.testing.assert_array_equal(stored_values(path), PLANES[depth])


@pytest.mark.counterpart("dcmtk")
def test_12_bit_jpeg_as_dcmtk_decodes_it(tmp_path: Path) -> None:
    plane = PLANES["12 bits"]
    stream = imagecodecs.jpeg8_encode(plane, level=90, bitspersample=12)
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=uid.JPEGExtended12Bit, **described(plane))
    decoder = program("dcmdjpeg")
    assert decoder is not None
    subprocess.run([decoder, path, tmp_path / "b.dcm"], check=True, capture_output=True, timeout=60)
    np.testing.assert_array_equal(stored_values(path), dcmread(tmp_path / "b.dcm").pixel_array)
