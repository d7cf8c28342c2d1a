"""Volumes of what was decoded at arrival: mapped from where it lies, in any order, and the same as read in full."""

import gc
import os
import random
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from node.volume import Decoders, FrameCache, KnownInstance, load_volume
from node.volume.decoders import decode_file
from node.volume.pages import Pages
from node.volume.values import AS_STORED, Rescale
from tests.node.volume.test_cache import LIMIT_SECONDS, entries
from tests.node.volume.test_known import is_quick, known_of
from tests.node.volume.test_pages import memory_of
from tests.phantoms import write_series

SHAPE = (5, 64, 128)
STORED = np.random.default_rng(3).integers(0, 4096, SHAPE).astype(np.int16)
CT = {"modality": "CT", "RescaleIntercept": -1024, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}

pytestmark = pytest.mark.skipif(
    not Pages.can_hold(SHAPE, np.int16), reason="needs Linux 5.14 and pages of 16 KB at most"
)


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "decoded", 1 << 24)


def series(folder: Path, voxels: np.ndarray = STORED, **options: object) -> list[Path]:
    paths = write_series(
        folder, shape=voxels.shape, voxels=voxels, transfer_syntax=uid.JPEGLSLossless, **{**CT, **options}
    )
    random.Random(1).shuffle(paths)
    return paths


def arrive(cache: FrameCache, paths: list[Path]) -> list[KnownInstance]:
    """Decode these, as the processes do at arrival; what reception notes of them."""
    assert [decode_file(cache, path, LIMIT_SECONDS) for path in paths] == [1] * len(paths)
    return known_of(paths)


def mapped(cache: FrameCache) -> int:
    """How many entries are in the memory of this process."""
    return sum(str(cache.folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def spoil(paths: list[Path]) -> None:
    """What is decoded now fails: only what was decoded before can be read."""
    for path in paths:
        found, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-300] + bytes(300))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("notes", [True, False], ids=["by the notes", "by the headers"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, STORED - 1024),
        ({"RescaleSlope": 2, "RescaleIntercept": -7}, STORED * 2 - 7),
        ({"modality": "MR", "RescaleIntercept": 0}, STORED),
        ({"RescaleIntercept": 0, "BitsStored": 16, "HighBit": 15}, STORED),
        ({"RescaleIntercept": 0, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}, STORED),
    ],
    ids=["CT", "slope", "MR", "unsigned of 16 bits", "signed of 16 bits"],
)
def test_a_volume_is_what_was_decoded(
    tmp_path: Path, cache: FrameCache, options: dict[str, object], wanted: np.ndarray, notes: bool
) -> None:
    paths = series(tmp_path / "a", **options)
    known = arrive(cache, paths)
    spoil(paths)
    with Decoders(2, cache) as decoders:
        volume = load_volume(paths[::-1], known if notes else (), decoders)
        assert mapped(cache) == len(paths) and is_quick(volume) == notes
        np.testing.assert_array_equal(volume.voxels, wanted)
        assert volume.voxels.dtype == np.int16 and not volume.voxels.flags.writeable
        del volume
        gc.collect()
        assert mapped(cache) == 0


def test_what_is_missing_or_cut_off_is_decoded_into_its_place(tmp_path: Path, cache: FrameCache) -> None:
    paths = sorted(series(tmp_path / "a"))
    arrive(cache, paths[1:4])
    cut = entries(cache)[1]
    os.truncate(cut, cut.stat().st_size - 4096)
    with Decoders(2, cache) as decoders:
        volume = load_volume(paths, known_of(paths), decoders)
    assert mapped(cache) == 2
    np.testing.assert_array_equal(volume.voxels, STORED - 1024)


def test_a_volume_stays_when_the_cache_is_emptied_and_the_cache_when_the_volume_is_changed(
    tmp_path: Path, cache: FrameCache
) -> None:
    paths = series(tmp_path / "a")
    arrive(cache, paths)
    with Decoders(2, cache) as decoders:
        first, second = (load_volume(paths, known_of(paths), decoders).voxels for _ in range(2))
        first.base.setflags(write=True)
        changed = first.view()
        changed.setflags(write=True)
        changed[1:3] = 0
        np.testing.assert_array_equal(second, STORED - 1024)
        np.testing.assert_array_equal(load_volume(paths, known_of(paths), decoders).voxels, STORED - 1024)
        cache.trim(1e12)
        assert entries(cache) == []
        np.testing.assert_array_equal(first[1:3], np.zeros_like(STORED[1:3]))
        np.testing.assert_array_equal(first[3:], STORED[3:] - 1024)
        np.testing.assert_array_equal(second, STORED - 1024)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"PixelPaddingValue": 0}, np.where(STORED == 0, STORED[STORED > 0].min(), STORED) - 1024),
        ({"BitsStored": 16, "HighBit": 15}, STORED - 1024),
        ({"RescaleSlope": 0.5}, (STORED * 0.5 - 1024).astype(np.float32)),
    ],
    ids=["padding", "range", "fraction"],
)
def test_what_is_changed_after_reading_is_read(
    tmp_path: Path, cache: FrameCache, options: dict[str, object], wanted: np.ndarray
) -> None:
    """A page that is written to would be copied after all, one at a time."""
    paths = series(tmp_path / "a", **options)
    known = arrive(cache, paths)
    spoil(paths)
    with Decoders(2, cache) as decoders:
        volume = load_volume(paths, known, decoders)
    assert mapped(cache) == 0
    np.testing.assert_array_equal(volume.voxels, wanted)


def test_frames_that_are_no_whole_pages_are_read(tmp_path: Path, cache: FrameCache) -> None:
    stored = np.ascontiguousarray(STORED[:, :-1, :-1])
    paths = series(tmp_path / "a", stored)
    known = arrive(cache, paths)
    spoil(paths)
    with Decoders(2, cache) as decoders:
        volume = load_volume(paths, known, decoders)
    assert mapped(cache) == 0
    np.testing.assert_array_equal(volume.voxels, stored - 1024)


def test_slices_of_several_rescales_come_out_as_without_a_cache(tmp_path: Path, cache: FrameCache) -> None:
    """Each was rescaled by its own when it arrived; the volume needs what is stored."""
    paths = series(tmp_path / "a")
    image = dcmread(paths[2])
    image.RescaleIntercept = -1000
    image.save_as(paths[2])
    arrive(cache, paths)
    with Decoders(2, cache) as decoders:
        found = load_volume(paths, known_of(paths), decoders).voxels
    np.testing.assert_array_equal(found, load_volume(paths).voxels)
    assert found.dtype == np.float32 and len(np.unique(found - STORED)) == 2


@pytest.mark.parametrize("signed", [0, 1])
def test_images_of_8_bits_are_kept_as_the_volume_holds_them(tmp_path: Path, cache: FrameCache, signed: int) -> None:
    stored = (STORED % 256).astype(np.uint8).view(np.int8 if signed else np.uint8)
    paths = write_series(tmp_path / "a", shape=SHAPE)
    for path, plane in zip(paths, stored, strict=True):
        image = dcmread(path)
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, signed
        image.PixelData = plane.tobytes()
        image["PixelData"].VR = "OB"
        image.compress(uid.JPEGLSLossless, generate_instance_uid=False)
        image.save_as(path)
    known = arrive(cache, paths)
    spoil(paths)
    with Decoders(2, cache) as decoders:
        np.testing.assert_array_equal(load_volume(paths, known, decoders).voxels, stored)


def test_an_image_decoded_alone_is_rescaled_too(tmp_path: Path, cache: FrameCache) -> None:
    paths = series(tmp_path / "a")
    with cache.claim(paths[0], 0, AS_STORED) as claimed:
        assert claimed is not None
        claimed.leave()
    with Decoders(2, cache) as decoders:
        np.testing.assert_array_equal(load_volume(paths, known_of(paths), decoders).voxels, STORED - 1024)
    with cache.claim(paths[0], 0, Rescale(1, -1024)) as claimed:
        assert claimed is None  # it is kept


def test_no_memory_waits_beside_what_is_mapped(tmp_path: Path, cache: FrameCache) -> None:
    paths = series(tmp_path / "a")
    with Decoders(2, cache) as decoders:
        array = decoders.allocate(SHAPE, np.int16, None)
        memory = memory_of(array)
        del array
        assert memory() is not None
        arrive(cache, paths)
        volume = load_volume(paths, known_of(paths), decoders)
        assert mapped(cache) == len(paths) == len(volume.headers)
        assert memory() is None


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless], ids=["plain", "compressed"])
@pytest.mark.parametrize("intercept", [-1024, -1024.5], ids=["whole", "fraction"])
def test_the_next_volume_has_the_memory_of_the_one_before_but_not_while_that_is_used(
    tmp_path: Path, cache: FrameCache, syntax: uid.UID, intercept: float
) -> None:
    series_of = [
        write_series(
            tmp_path / str(number),
            shape=SHAPE,
            voxels=(STORED + number) % 4096,
            transfer_syntax=syntax,
            **{**CT, "RescaleIntercept": intercept},
        )
        for number in range(3)
    ]
    with Decoders(2, cache) as decoders, decoders.keeping(False):
        first = load_volume(series_of[0], known_of(series_of[0]), decoders).voxels
        second = load_volume(series_of[1], known_of(series_of[1]), decoders).voxels
        memory = memory_of(first)
        for number, voxels in enumerate((first, second)):
            np.testing.assert_array_equal(voxels, (STORED + number) % 4096 + np.float32(intercept))
        del first, voxels
        third = load_volume(series_of[2], known_of(series_of[2]), decoders).voxels
        assert memory_of(third) == memory != memory_of(second)
        np.testing.assert_array_equal(second, (STORED + 1) % 4096 + np.float32(intercept))
        np.testing.assert_array_equal(third, (STORED + 2) % 4096 + np.float32(intercept))
