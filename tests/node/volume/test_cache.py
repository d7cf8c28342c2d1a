"""Decoded frames on disk: found again by the same content only, bounded, and never trusted after a restart."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from node.errors import NotAnalysed
from node.volume import Decoders, FrameCache, load_volume
from node.volume.instance import read_instance
from node.volume.pixels import PixelFormat
from node.volume.slices import slices_of
from tests.node.volume.test_known import is_quick, known_of
from tests.phantoms import default_voxels, write_series

FORM = PixelFormat(4, 5, 16, 16, True)
VALUES = np.arange(20, dtype=np.int16).reshape(4, 5) - 7
SHAPE = (26, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    made = FrameCache(tmp_path / "decoded", 1 << 24)
    made.begin()
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"content")
    return path


def entries(cache: FrameCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_a_frame_comes_back(cache: FrameCache, source: Path) -> None:
    into = np.empty((4, 5), np.int16)
    assert not cache.has(source, 0, FORM) and not cache.read(source, 0, FORM, into)
    cache.write(source, 0, VALUES)
    assert cache.has(source, 0, FORM) and cache.read(source, 0, FORM, into)
    np.testing.assert_array_equal(into, VALUES)
    assert not cache.has(source, 1, FORM)
    assert b"content" not in entries(cache)[0].read_bytes()


def test_bytes_come_back_into_a_wider_type(cache: FrameCache, source: Path) -> None:
    cache.write(source, 0, VALUES.astype(np.int8))
    into = np.empty((4, 5), np.int16)
    assert cache.read(source, 0, PixelFormat(4, 5, 8, 8, True), into)
    np.testing.assert_array_equal(into, VALUES)


def test_another_content_under_the_same_path_is_not_found(cache: FrameCache, source: Path) -> None:
    cache.write(source, 0, VALUES)
    source.write_bytes(b"other content")
    assert not cache.has(source, 0, FORM)
    source.unlink()
    assert not cache.has(source, 0, FORM) and not cache.read(source, 0, FORM, np.empty((4, 5), np.int16))


def test_an_entry_cut_off_is_not_read(cache: FrameCache, source: Path) -> None:
    cache.write(source, 0, VALUES)
    entry = entries(cache)[0]
    entry.write_bytes(entry.read_bytes()[:-2])
    assert not cache.has(source, 0, FORM) and not cache.read(source, 0, FORM, np.empty((4, 5), np.int16))


def test_entries_of_an_earlier_start_of_the_machine_are_taken_away(cache: FrameCache, source: Path) -> None:
    cache.write(source, 0, VALUES)
    earlier = cache.folder / "another-start"
    earlier.mkdir()
    (earlier / "entry").write_bytes(bytes(40))
    FrameCache(cache.folder, 1 << 24).begin()
    assert not earlier.exists()
    assert cache.has(source, 0, FORM)  # that of this start survives a restart of the node


def test_trim_takes_the_old_and_the_oldest_beyond_the_limit(tmp_path: Path, source: Path) -> None:
    cache = FrameCache(tmp_path / "decoded", 3 * VALUES.nbytes)
    cache.begin()
    for frame in range(6):
        cache.write(source, frame, VALUES)
        os.utime(max(entries(cache), key=lambda path: path.stat().st_mtime_ns), (1000 + frame, 1000 + frame))
    assert cache.trim(1010) == 3 * VALUES.nbytes
    assert [cache.has(source, frame, FORM) for frame in range(6)] == [False, False, False, True, True, True]
    assert cache.trim(1004 + 3600.5) == VALUES.nbytes
    assert cache.trim(1e9) == 0


def test_images_decoded_before_are_not_decoded_again(tmp_path: Path, cache: FrameCache) -> None:
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    known = known_of(paths)
    with Decoders(2, cache) as decoders:
        for one in slices_of([read_instance(path, 1) for path in paths]):
            assert decoders.submit(one).result() is None
        assert len(entries(cache)) == len(paths)
        for path in paths:  # what is decoded now fails: only the kept ones can be read
            found = path.stat()
            content = path.read_bytes()
            path.write_bytes(content[:-300] + bytes(300))
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        volume = load_volume(paths, known, decoders)
        assert is_quick(volume)
        np.testing.assert_array_equal(volume.voxels, VOXELS)
        cache.trim(1e12)
        with pytest.raises(NotAnalysed):
            load_volume(paths, known, decoders)


def test_a_disk_that_is_full_costs_time_only(tmp_path: Path) -> None:
    missing = FrameCache(tmp_path / "decoded", 1 << 24)  # its folder was never made, so nothing can be written
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    with Decoders(2, missing) as decoders:
        np.testing.assert_array_equal(load_volume(paths, decoders=decoders).voxels, VOXELS)
    assert not missing.folder.exists()


def test_loading_stops_when_it_is_told_to(tmp_path: Path, cache: FrameCache) -> None:
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEG2000Lossless)
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 6:
            raise LookupError("stop")

    with Decoders(2, cache) as decoders, pytest.raises(LookupError):
        load_volume(paths, decoders=decoders, check=check)
    assert len(calls) == 6
