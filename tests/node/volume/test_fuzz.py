"""Mutated files through header walk, loading and decoding: an answer every time, in little time and memory.

`OVERREAD_SOAK=1` runs more. The limits hold for a process of its own: a crash or a hang ends it, and the test says
after which mutation.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate

from node.volume.codecs import JPEG_XL_LOSSLESS
from tests.node.volume.fuzz_process import LIMIT_SECONDS
from tests.phantoms import default_voxels, write_series

SHAPE = (3, 40, 36)
MUTATIONS = 2000 if os.environ.get("OVERREAD_SOAK") else 80
UIDS = {"study_instance_uid": "1.2.826.0.1.3680043.8.498.1", "series_instance_uid": "1.2.826.0.1.3680043.8.498.2"}
SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


ENCODERS: dict[uid.UID, Callable[[np.ndarray], bytes]] = {
    uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    uid.JPEGExtended12Bit: lambda plane: imagecodecs.jpeg8_encode(plane, level=95, bitspersample=12),
    uid.HTJ2KLossless: lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    JPEG_XL_LOSSLESS: lambda plane: imagecodecs.jpegxl_encode(plane, lossless=True),
}
"""Transfer syntaxes that pydicom does not write."""


@pytest.mark.parametrize("transfer_syntax", [*SYNTAXES, *ENCODERS], ids=lambda each: each.keyword or str(each))
def test_every_mutation_loads_or_gives_its_reason(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    voxels = default_voxels(SHAPE, (3.0, 1.5, 1.5))
    if transfer_syntax in ENCODERS:
        encode_series(tmp_path, voxels, transfer_syntax)
    else:
        write_series(tmp_path, shape=SHAPE, voxels=voxels, transfer_syntax=transfer_syntax, **UIDS)
    check_mutations(tmp_path, transfer_syntax)


def encode_series(folder: Path, voxels: np.ndarray, transfer_syntax: uid.UID) -> None:
    settings = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    for path, plane in zip(write_series(folder, shape=SHAPE, voxels=voxels, **settings, **UIDS), voxels, strict=True):
        image = dcmread(path)
        image.PixelData = encapsulate([ENCODERS[transfer_syntax](plane.astype(np.uint16))])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = transfer_syntax
        image.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)


def check_mutations(tmp_path: Path, seed: str) -> None:
    """Run the process that tries them: those of this seed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, Path(__file__).with_name("fuzz_process.py"), tmp_path, str(MUTATIONS), seed]
    limit = 60 + MUTATIONS * LIMIT_SECONDS
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    assert ended.returncode == 0, f"after {ended.stdout.splitlines()[-1:]}: {ended.stderr[-2000:]}"
    reasons = {line.split()[2] for line in ended.stdout.splitlines() if line.startswith("mutation")}
    assert len(reasons) > 2
