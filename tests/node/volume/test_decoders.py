"""Decoding in processes gives what decoding here gives, and ends with its parent."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from node.errors import NotAnalysed, Transient
from node.volume import Decoders, load_volume
from tests.phantoms import default_voxels, write_series

SHAPE = (26, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as pool:
        yield pool


@pytest.mark.parametrize("transfer_syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless], ids=lambda each: each.keyword)
def test_values_are_those_written(tmp_path: Path, transfer_syntax: uid.UID, decoders: Decoders) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    volume = load_volume(paths[::-1], decoders=decoders)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.voxels.dtype == np.int16


def test_a_damaged_image_is_refused_as_without_them(tmp_path: Path, decoders: Decoders) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEG2000Lossless)
    image = dcmread(paths[12])
    image.PixelData = encapsulate([get_frame(image.PixelData, 0)[:100] + b"\xff\xd9"])
    image.save_as(paths[12])
    messages = []
    for pool in (None, decoders):
        with pytest.raises(NotAnalysed) as caught:
            load_volume(paths, decoders=pool)
        messages.append((caught.value.code, str(caught.value)))
    assert messages[0] == messages[1] and messages[0][0] == "undecodable-pixel-data"
    assert str(image.SOPInstanceUID) in messages[1][1]


def test_a_decoder_that_breaks_down_spoils_one_attempt_only(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEG2000Lossless)
    before = set(psutil.Process().children())
    with Decoders(2) as decoders:
        load_volume(paths, decoders=decoders)
        started = set(psutil.Process().children()) - before
        workers = [child for child in started if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers, timeout=30)
        others = write_series(tmp_path / "b", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEG2000Lossless)
        with pytest.raises(Transient, match="a decoding process ended"):
            load_volume(others, decoders=decoders)
        np.testing.assert_array_equal(load_volume(others, decoders=decoders).voxels, VOXELS)


def test_decoding_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEG2000Lossless)
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""\
        import sys
        from pathlib import Path
        from node.volume import Decoders, load_volume
        if __name__ == "__main__":
            decoders = Decoders(2)
            load_volume(sorted(Path(sys.argv[1]).glob("*.dcm")), decoders=decoders)
            print("loaded", flush=True)
            sys.stdin.read()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, script, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"loaded\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
