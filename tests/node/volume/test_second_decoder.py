"""Each decoder in use gives, bit for bit, what a second one gives that was made by others."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from node.volume.decode import PLUGINS, read_stored_values
from node.volume.instance import open_instance, read_instance
from node.volume.pixels import read_format
from tests.phantoms import write_series

CHANCE = np.random.default_rng(5)
SHADES = (np.add.outer(np.arange(48), np.arange(40)) * 30)[None] + CHANCE.integers(0, 60, (2, 48, 40))
CASES = {
    "12 bits": (SHADES.astype(np.int16), {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}),
    "16 bits signed": ((SHADES * 12 - 16000).astype(np.int16), {}),
    "16 bits unsigned": ((SHADES * 20).astype(np.uint16).view(np.int16), {"PixelRepresentation": 0}),
}


def stored_values(path: Path) -> np.ndarray:
    instance = read_instance(path, 1)
    form = read_format(instance.header, instance.name)
    values = np.empty((form.rows, form.columns), np.int16 if form.is_signed else np.uint16)
    with open_instance(path) as stream:
        read_stored_values(stream, instance, form, values)
    return values


@pytest.mark.parametrize(
    ("transfer_syntax", "second"),
    [(uid.RLELossless, "pydicom"), (uid.JPEGLSLossless, "gdcm"), (uid.JPEG2000Lossless, "pillow")],
    ids=["RLE: pydicom", "JPEG-LS: gdcm", "JPEG 2000: Pillow"],
)
@pytest.mark.parametrize("case", CASES)
def test_second_decoder_agrees(tmp_path: Path, case: str, transfer_syntax: uid.UID, second: str) -> None:
    voxels, options = CASES[case]
    paths = write_series(tmp_path, shape=voxels.shape, voxels=voxels, transfer_syntax=transfer_syntax, **options)
    assert PLUGINS[transfer_syntax] != second
    for path, plane in zip(paths, voxels, strict=True):
        image = dcmread(path)
        image.pixel_array_options(decoding_plugin=second, raw=True)
        values = stored_values(path)
        np.testing.assert_array_equal(values, image.pixel_array)
        np.testing.assert_array_equal(values.view(np.int16), plane)
