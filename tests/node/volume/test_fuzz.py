"""Mutated files through header walk, loading and decoding: an answer every time, in little time and memory.

`OVERREAD_SOAK=1` runs more. The limits hold for a process of its own: a crash or a hang ends it, and the test says
after which mutation.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import uid

from tests.node.volume.fuzz_process import LIMIT_SECONDS
from tests.phantoms import default_voxels, write_series

SHAPE = (3, 40, 36)
MUTATIONS = 2000 if os.environ.get("OVERREAD_SOAK") else 120
SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


@pytest.mark.parametrize("transfer_syntax", SYNTAXES, ids=lambda each: each.keyword)
def test_every_mutation_loads_or_gives_its_reason(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    voxels = default_voxels(SHAPE, (3.0, 1.5, 1.5))
    write_series(tmp_path, shape=SHAPE, voxels=voxels, transfer_syntax=transfer_syntax)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, Path(__file__).with_name("fuzz_process.py"), tmp_path, str(MUTATIONS)]
    limit = 60 + MUTATIONS * LIMIT_SECONDS
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    assert ended.returncode == 0, f"after {ended.stdout.splitlines()[-1:]}: {ended.stderr[-2000:]}"
    reasons = {line.split()[2] for line in ended.stdout.splitlines() if line.startswith("mutation")}
    assert len(reasons) > 2
