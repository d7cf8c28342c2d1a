"""Decoded frames on disk: found again by the same content only, bounded, and never trusted after a restart."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from node.errors import NotAnalysed
from node.volume import Decoders, FrameCache, load_volume
from node.volume.values import AS_STORED, Rescale
from tests.counterparts import PATIENCE
from tests.node.volume.test_known import is_quick, known_of
from tests.phantoms import default_voxels, write_series

LIMIT_SECONDS = 60 * PATIENCE
VALUES = np.arange(20, dtype=np.int16).reshape(4, 5) - 7
SHAPE = (6, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    made = FrameCache(tmp_path / "decoded", 1 << 24)
    made.begin(time.time())
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"content")
    return path


def keep(cache: FrameCache, source: Path, frame: int, values: np.ndarray, rescale: Rescale = AS_STORED) -> None:
    """Values of a frame, as who decoded it keeps them."""
    with cache.claim(source, frame, rescale) as claimed:
        assert claimed is not None
        claimed.keep(values)


def has(cache: FrameCache, source: Path, frame: int = 0, shape: tuple[int, ...] = VALUES.shape) -> bool:
    """Whether a frame is there, as it is stored, in 16 bits."""
    return cache.read(source, frame, np.empty(shape, np.int16))


def entries(cache: FrameCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_a_frame_comes_back(cache: FrameCache, source: Path) -> None:
    into = np.empty((4, 5), np.int16)
    assert not cache.read(source, 0, into)
    keep(cache, source, 0, VALUES)
    assert cache.read(source, 0, into)
    np.testing.assert_array_equal(into, VALUES)
    assert not has(cache, source, 1)
    assert b"content" not in entries(cache)[0].read_bytes()


def test_a_frame_of_another_rescale_is_another(cache: FrameCache, source: Path) -> None:
    hounsfield, into = Rescale(1, -1024), np.empty((4, 5), np.int16)
    keep(cache, source, 0, VALUES - 1024, hounsfield)
    assert not has(cache, source) and not cache.read(source, 0, into, Rescale(1, -1000))
    keep(cache, source, 0, VALUES)
    assert cache.read(source, 0, into, hounsfield)
    np.testing.assert_array_equal(into, VALUES - 1024)
    assert cache.read(source, 0, into)
    np.testing.assert_array_equal(into, VALUES)


def test_who_waits_for_another_rescale_leaves_the_entry_that_was_made_as_it_is(
    cache: FrameCache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that both opened to lock it is an entry by then, and may be mapped into somebody's memory."""
    into, lock, is_open = np.empty((4, 5), np.int16), fcntl.flock, threading.Event()

    def watched(file: int, how: int) -> None:
        is_open.set()
        lock(file, how)

    with ThreadPoolExecutor(1) as other:
        with cache.claim(source, 0) as first:
            assert first is not None
            monkeypatch.setattr(fcntl, "flock", watched)
            waiting = other.submit(keep, cache, source, 0, VALUES - 1024, Rescale(1, -1024))
            assert is_open.wait(LIMIT_SECONDS)
            first.keep(VALUES)
        waiting.result(LIMIT_SECONDS)
    assert cache.read(source, 0, into)
    np.testing.assert_array_equal(into, VALUES)
    assert cache.read(source, 0, into, Rescale(1, -1024))
    np.testing.assert_array_equal(into, VALUES - 1024)


def test_another_content_under_the_same_path_is_not_found(cache: FrameCache, source: Path) -> None:
    keep(cache, source, 0, VALUES)
    source.write_bytes(b"other content")
    assert not has(cache, source)
    source.unlink()
    assert not has(cache, source)


def test_an_entry_of_wider_values_is_not_read(cache: FrameCache, source: Path) -> None:
    keep(cache, source, 0, VALUES)
    assert not cache.read(source, 0, np.empty((4, 5), np.int8))


def test_an_entry_cut_off_is_not_read(cache: FrameCache, source: Path) -> None:
    keep(cache, source, 0, VALUES)
    entry = entries(cache)[0]
    entry.write_bytes(entry.read_bytes()[:-2])
    assert not has(cache, source)


def test_entries_of_another_start_or_machine_stay_for_their_hour(cache: FrameCache, source: Path) -> None:
    keep(cache, source, 0, VALUES)
    other = cache.folder / "another-start"
    other.mkdir()
    (other / "entry").write_bytes(bytes(40))
    changed = other.stat().st_mtime
    FrameCache(cache.folder, 1 << 24).begin(changed + 3599)
    assert (other / "entry").exists()  # a machine that shares the folder may be using it
    FrameCache(cache.folder, 1 << 24).begin(changed + 3601)
    assert not other.exists()
    assert has(cache, source)  # that of this start survives a restart of the node


def test_a_folder_that_another_machine_took_for_old_is_made_again(cache: FrameCache, source: Path) -> None:
    """Nothing came for an hour here, and the other was started."""
    shutil.rmtree(next(each for each in cache.folder.iterdir()))
    keep(cache, source, 0, VALUES)
    assert has(cache, source)


def test_a_frame_is_decoded_by_one_and_the_other_waits_for_it(cache: FrameCache, source: Path) -> None:
    with ThreadPoolExecutor(1) as other:
        with cache.claim(source, 0) as first:
            waiting = other.submit(lambda: list(map(_is_there, [cache], [source])))
            assert first is not None and not waiting.done()
            first.keep(VALUES)
        assert waiting.result(LIMIT_SECONDS) == [True]
    assert [path.name for path in entries(cache) if path.suffix] == []


def _is_there(cache: FrameCache, source: Path) -> bool:
    with cache.claim(source, 0) as claimed:
        return claimed is None


def test_a_frame_that_one_cannot_decode_is_tried_by_who_waits(cache: FrameCache, source: Path) -> None:
    with ThreadPoolExecutor(1) as other:
        with pytest.raises(LookupError), cache.claim(source, 0):
            waiting = other.submit(keep, cache, source, 0, VALUES)
            raise LookupError
        waiting.result(LIMIT_SECONDS)
    assert has(cache, source)
    assert [path.name for path in entries(cache) if path.suffix] == []


def test_the_claim_of_a_process_that_is_killed_goes_with_it(cache: FrameCache, source: Path) -> None:
    script = "import sys; from pathlib import Path; from node.volume import FrameCache\n"
    script += "cache = FrameCache(Path(sys.argv[1]), 1 << 24)\n"
    script += "with cache.claim(Path(sys.argv[2]), 0): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, cache.folder, source]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert [path.suffix for path in entries(cache)] == [".part"]
        holder.kill()
    with cache.claim(source, 0) as claimed:
        assert claimed is not None and claimed.is_suspect
        claimed.keep(VALUES)
    assert has(cache, source)
    assert [path.name for path in entries(cache) if path.suffix] == []


def test_who_had_its_file_trimmed_away_leaves_that_of_the_next_one(cache: FrameCache, source: Path) -> None:
    with ExitStack() as holding:
        first = holding.enter_context(cache.claim(source, 0))
        cache.trim(time.time() + 1e6)
        with cache.claim(source, 0) as second:
            assert first is not None and second is not None
            first.keep(VALUES)
            holding.close()
            assert [path.suffix for path in entries(cache)] == [".part"]
            second.keep(VALUES + 1)
    into = np.empty((4, 5), np.int16)
    assert cache.read(source, 0, into)
    np.testing.assert_array_equal(into, VALUES + 1)


def test_a_mark_is_left_only_by_who_wants_it(cache: FrameCache, source: Path) -> None:
    with cache.claim(source, 0) as claimed:
        assert claimed is not None and not claimed.is_suspect
    for _ in range(2):
        with cache.claim(source, 0) as claimed:
            assert claimed is not None
            claimed.leave()
    with cache.claim(source, 0) as claimed:
        assert claimed is not None and claimed.is_suspect
    assert entries(cache) == []


def test_a_mark_is_found_whatever_the_rescale(cache: FrameCache, source: Path) -> None:
    with cache.claim(source, 0, Rescale(1, -1024)) as claimed:
        assert claimed is not None
        claimed.leave()
    with cache.claim(source, 0) as claimed:
        assert claimed is not None and claimed.is_suspect


def test_a_mark_lives_longer_than_a_frame(cache: FrameCache, source: Path) -> None:
    """It has to be there when a job is tried again whose worker was ended for being late."""
    keep(cache, source, 0, VALUES)
    with cache.claim(source, 1) as claimed:
        assert claimed is not None
        claimed.leave()
    assert cache.trim(time.time() + 7200) == 1
    assert [path.suffix for path in entries(cache)] == [".part"]
    assert cache.trim(time.time() + 90000) == 0


def test_a_frame_that_is_decoded_elsewhere_is_waited_for(tmp_path: Path, cache: FrameCache) -> None:
    paths = write_series(tmp_path / "a", shape=(3, 40, 36), voxels=VOXELS[:3], transfer_syntax=uid.JPEGLSLossless)
    with Decoders(2, cache) as decoders, ThreadPoolExecutor(1) as other:
        with cache.claim(paths[1], 0) as claimed:
            loading = other.submit(load_volume, paths, known_of(paths), decoders)
            assert claimed is not None and not loading.done()
            claimed.keep(VOXELS[1] + 1)  # not what the file holds
        found = loading.result(LIMIT_SECONDS).voxels
    np.testing.assert_array_equal(found, VOXELS[:3] + np.array([0, 1, 0])[:, None, None])


def test_trim_takes_the_old_and_the_oldest_beyond_the_limit(tmp_path: Path, source: Path) -> None:
    cache = FrameCache(tmp_path / "decoded", 3 * VALUES.nbytes)
    cache.begin(time.time())
    for frame in range(6):
        keep(cache, source, frame, VALUES)
        os.utime(max(entries(cache), key=lambda path: path.stat().st_mtime_ns), (1000 + frame, 1000 + frame))
    assert cache.trim(1010) == 3 * VALUES.nbytes
    assert [has(cache, source, frame) for frame in range(6)] == [False, False, False, True, True, True]
    assert cache.trim(1004 + 3600.5) == VALUES.nbytes
    assert cache.trim(1e9) == 0


def test_images_decoded_before_are_not_decoded_again(tmp_path: Path, cache: FrameCache) -> None:
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    known = known_of(paths)
    with Decoders(2, cache) as decoders:
        assert [decoders.submit_file(path).result() for path in paths] == [1] * len(paths)
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


def test_a_disk_that_takes_nothing_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "decoded").write_bytes(b"no folder")
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    with Decoders(2, FrameCache(tmp_path / "decoded", 1 << 24)) as decoders:
        np.testing.assert_array_equal(load_volume(paths, decoders=decoders).voxels, VOXELS)
