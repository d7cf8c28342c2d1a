"""Images are decoded while their series arrives, kept within bounds, and a job finds them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread, uid
from sqlalchemy import Engine

from node.decode_ahead import AheadDecoder
from node.jobs.wake import Topic, Wake
from node.store.catalogue import release_series, settle_study, store_instances
from node.store.database import write_transaction
from node.volume import Decoders, FrameCache, load_volume
from node.volume.instance import read_instance
from node.volume.slices import slices_of
from tests.counterparts import wait_until
from tests.node.store.examples import later, received
from tests.node.volume.test_cache import has, keep
from tests.node.volume.test_known import known_of
from tests.phantoms import default_voxels, write_series

SHAPE = (6, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "instances", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "decoded", 1 << 24)


@pytest.fixture
def decoders(cache: FrameCache) -> Iterator[Decoders]:
    with Decoders(2, cache) as pool:
        yield pool


@pytest.fixture
def ahead(engine: Engine, tmp_path: Path, decoders: Decoders, cache: FrameCache) -> Iterator[AheadDecoder]:
    made = AheadDecoder(engine, tmp_path, decoders, cache, tmp_path / "run", poll_seconds=60)
    yield made
    made.stop()


def arrive(engine: Engine, paths: list[Path], **changes: object) -> None:
    """Rows of these files, as reception writes them."""
    rows = []
    for path in paths:
        image = dcmread(path, stop_before_pixels=True)
        row = received(int(image.InstanceNumber), series="1.2.3", study="1.2")
        row = replace(
            row,
            path=f"instances/{path.name}",
            transfer_syntax_uid=str(image.file_meta.TransferSyntaxUID),
            sop_class_uid=str(image.SOPClassUID),
        )
        rows.append(replace(row, **changes))
    with write_transaction(engine) as connection:
        store_instances(connection, rows, later(30))


def kept(cache: FrameCache, paths: list[Path]) -> list[bool]:
    return [has(cache, path, shape=SHAPE[1:]) for path in paths]


def test_what_arrives_is_decoded_once(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, decoders: Decoders, paths: list[Path]
) -> None:
    cache.begin(time.time())
    assert ahead.step() == 0
    arrive(engine, paths[:4])
    assert ahead.step() == 4 and ahead.step() == 0
    arrive(engine, paths[4:])
    assert ahead.step() == 2
    assert all(kept(cache, paths))
    np.testing.assert_array_equal(load_volume(paths, known_of(paths), decoders).voxels, VOXELS)


def test_a_notice_is_enough(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, paths: list[Path], tmp_path: Path
) -> None:
    ahead.start()
    arrive(engine, paths)
    wait_until(lambda: Wake(tmp_path / "run").notify(Topic.SETTLE) and all(kept(cache, paths)), "decoded images", 60)


@pytest.mark.parametrize(
    "changes",
    [{"transfer_syntax_uid": str(uid.ExplicitVRLittleEndian)}, {"sop_class_uid": str(uid.ComprehensiveSRStorage)}],
    ids=["plain", "no volume"],
)
def test_other_images_are_left_alone(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, paths: list[Path], changes: dict[str, object]
) -> None:
    cache.begin(time.time())
    arrive(engine, paths, **changes)
    assert ahead.step() == 0
    assert not any(kept(cache, paths))


def test_settled_series_are_left_to_their_job(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, paths: list[Path]
) -> None:
    cache.begin(time.time())
    arrive(engine, paths)
    with write_transaction(engine) as connection:
        release_series(connection, ["1.2.3"], later(2), later(1))
        settle_study(connection, "1.2", later(60))
    assert ahead.step() == 0


def test_what_only_arrives_waits_while_a_job_loads(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, decoders: Decoders, paths: list[Path]
) -> None:
    cache.begin(time.time())
    arrive(engine, paths)
    with decoders.reader(slices_of([read_instance(path, 1) for path in paths])) as reader:
        assert reader is not None
        assert not decoders.wait_for_jobs(0)
        assert ahead.step() == 0
    assert decoders.wait_for_jobs(0)
    assert ahead.step() == len(paths)


def test_a_damaged_or_missing_file_stops_nothing(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, paths: list[Path]
) -> None:
    cache.begin(time.time())
    arrive(engine, paths)
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:-400] + bytes(400))
    paths[3].write_bytes(b"")
    paths[4].unlink()
    assert ahead.step() == 3
    assert kept(cache, [paths[0], paths[1], paths[5]]) == [True] * 3


def test_a_process_that_dies_costs_only_what_it_had_in_hand(
    engine: Engine, ahead: AheadDecoder, cache: FrameCache, paths: list[Path]
) -> None:
    arrive(engine, paths[:2])
    before = set(psutil.Process().children())
    ahead.look()
    assert all(kept(cache, paths[:2]))
    started = [
        child
        for child in set(psutil.Process().children()) - before
        if "spawn_main" in " ".join(child.cmdline())  # and not the tracker of resources, should this be its first use
    ]
    assert started
    for child in started:
        child.kill()
    psutil.wait_procs(started, timeout=30)
    arrive(engine, paths[2:4])
    ahead.look()
    arrive(engine, paths[4:])
    ahead.look()
    assert kept(cache, paths) == [True, True, False, False, True, True]


def test_what_is_too_old_goes_when_nothing_arrives_any_more(
    engine: Engine, tmp_path: Path, cache: FrameCache, decoders: Decoders, paths: list[Path]
) -> None:
    made = AheadDecoder(engine, tmp_path, decoders, cache, tmp_path / "run", poll_seconds=60, now=lambda: 1e12)
    cache.begin(time.time())
    keep(cache, paths[0], 0, VOXELS[0])
    assert kept(cache, paths[:1]) == [True]
    made.look()
    assert kept(cache, paths[:1]) == [False]
    made.stop()


def test_one_of_several_processes_decodes_ahead(cache: FrameCache) -> None:
    cache.begin(time.time())
    with cache.lock() as first, cache.lock() as second:
        assert first and not second
    with cache.lock() as third:
        assert third


def test_the_cache_is_trimmed_while_many_images_are_decoded(engine: Engine, tmp_path: Path, paths: list[Path]) -> None:
    seen = []

    class Watched(FrameCache):
        def trim(self, now: float) -> int:
            seen.append(len(list(self._current.glob("[0-9a-f]*"))))
            return super().trim(now)

    small = Watched(tmp_path / "decoded", 40 * 36 * 2)
    small.begin(time.time())
    arrive(engine, paths)
    with Decoders(1, FrameCache(small.folder, small.maximum_bytes)) as decoders:
        clock = count(int(time.time()), 10)
        made = AheadDecoder(engine, tmp_path, decoders, small, tmp_path / "run", 60, lambda: float(next(clock)))
        assert made.step() == len(paths)
        made.stop()
    assert max(seen) < len(paths)
    assert sum(kept(small, paths)) == 1


def test_the_cache_stays_within_its_bounds(
    engine: Engine, tmp_path: Path, paths: list[Path], decoders: Decoders
) -> None:
    small = FrameCache(tmp_path / "decoded", 3 * 40 * 36 * 2)
    small.begin(time.time())
    made = AheadDecoder(engine, tmp_path, Decoders(2, small), small, tmp_path / "run", poll_seconds=60)
    arrive(engine, paths)
    assert made.step() == 6
    files = [entry for entry in tmp_path.joinpath("decoded").rglob("*") if entry.is_file() and entry.name != "lock"]
    assert sum(entry.stat().st_size for entry in files) <= small.maximum_bytes
    assert sum(kept(small, paths)) == 3
    made.stop()
    made._decoders.close()
