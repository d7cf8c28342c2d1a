"""Up to when everything is on disk, told by commits whose syncs overlap."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Engine

from node.receive.copies import Copies
from node.receive.watermark import Watermark
from node.store.files import FileStore
from node.store.sync_point import SyncPoint

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def sync_point(tmp_path: Path) -> SyncPoint:
    return SyncPoint(tmp_path)


@pytest.fixture
def copies(tmp_path: Path, sync_point: SyncPoint) -> Copies:
    """They are asked for nothing that is in a database."""
    return Copies(cast(Engine, None), FileStore(tmp_path), lambda: NOW, sync_point)


@pytest.fixture
def watermark(sync_point: SyncPoint, copies: Copies) -> Iterator[Watermark]:
    made = Watermark(sync_point, copies, lambda: NOW)
    made.open(syncs_once=True)
    yield made
    made.close()


def test_a_commit_counts_once_those_before_it_have_ended(
    watermark: Watermark, copies: Copies, sync_point: SyncPoint
) -> None:
    first, second, third = (watermark.begin(later(seconds)) for seconds in (10, 20, 30))
    watermark.end(second, is_on_disk=True)
    assert copies.durable_until == sync_point.read() == NOW
    watermark.end(first, is_on_disk=False)  # taken back
    assert copies.durable_until == sync_point.read() == later(20)
    watermark.end(third, is_on_disk=True)
    assert copies.durable_until == sync_point.read() == later(30)


def test_what_failed_moves_nothing(watermark: Watermark, copies: Copies, sync_point: SyncPoint) -> None:
    watermark.end(watermark.begin(later(10)), is_on_disk=False)
    assert copies.durable_until == sync_point.read() == NOW


def test_commit_of_before_the_clock_was_set_back_does_not_reach_past_it(
    watermark: Watermark, copies: Copies, sync_point: SyncPoint
) -> None:
    watermark.end(watermark.begin(later(5)), is_on_disk=True)
    before = watermark.begin(later(10))
    watermark.set_back(later(-100))
    assert copies.durable_until == sync_point.read() == later(-100)
    watermark.end(before, is_on_disk=True)
    assert copies.durable_until == sync_point.read() == later(-100)


def test_files_that_nobody_trusts_keep_the_point_where_it_is(
    watermark: Watermark, copies: Copies, sync_point: SyncPoint
) -> None:
    copies.distrusted.add("instances/one")
    watermark.end(watermark.begin(later(10)), is_on_disk=True)
    assert sync_point.read() == NOW
