"""What a power cut may leave of objects that nobody was told of, and how it is found at the next start."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from node.store import tables
from node.store.catalogue import ReceivedInstance, recent_quarantine, store_instances
from node.store.database import open_database, read_transaction, write_transaction
from node.store.files import FileStore
from node.store.sync_point import SyncPoint, drop_lost_objects, forget_instances
from tests.postgresql import empty_tables


@pytest.fixture
def engine(empty_database: Path, tmp_path: Path) -> Iterator[Engine]:
    """SQLite: elsewhere no row is on disk before its file."""
    engine = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'overread.sqlite')}")
    yield engine
    engine.dispose()


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
META = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + (0).to_bytes(4, "little")


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    made = FileStore(tmp_path / "data")
    made.open_session()
    return made


def store(engine: Engine, files: FileStore, number: int, at: datetime, series: str = "1.2") -> Path:
    """An object with row and file, received at this time."""
    file = files.new_temporary(META)
    file.write(memoryview(bytes([number]) * 1000))
    file.finish()
    file.close()
    digest = file.digest.hexdigest()
    path = files.place(file.path, series, f"1.2.3.{number}", digest)
    one = ReceivedInstance(
        sop_instance_uid=f"1.2.3.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=series,
        study_instance_uid="1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=path,
        size_bytes=len(META) + 1000,
        digest=digest,
        received_at=at,
        calling_ae_title="CT",
        called_ae_title="NODE",
        series_header={},
    )
    with write_transaction(engine) as connection:
        assert store_instances(connection, [one], at + timedelta(seconds=30)) == ["stored"]
    return files.absolute(path)


def known(engine: Engine) -> set[str]:
    with read_transaction(engine) as connection:
        return {uid[6:] for uid in connection.scalars(select(tables.instance.c.sop_instance_uid))}


def record(files: FileStore, at: datetime) -> None:
    point = SyncPoint(files.data_dir)
    point.open(at)
    point.record(at)
    point.close()


def test_rows_after_the_point_are_compared_with_their_files(engine: Engine, files: FileStore) -> None:
    later = NOW + timedelta(seconds=1)
    store(engine, files, 1, later)
    missing, short, torn, headless = (store(engine, files, number, later) for number in (2, 3, 4, 5))
    missing.unlink()
    os.truncate(short, 600)
    torn.write_bytes(META + bytes(1000))
    headless.write_bytes(bytes(len(META) + 1000))
    record(files, NOW)
    assert drop_lost_objects(engine, files, lambda: NOW + timedelta(minutes=1)) == 4
    assert known(engine) == {"1"}
    assert not short.exists() and not torn.exists()
    with read_transaction(engine) as connection:
        set_aside = recent_quarantine(connection)
    assert {(one.code, one.sop_instance_uid) for one in set_aside} == {("torn", f"1.2.3.{n}") for n in (3, 4, 5)}
    assert {files.absolute(one.path or "").stat().st_size for one in set_aside} == {600, len(META) + 1000}


def test_file_that_cannot_be_read_is_no_lost_one(engine: Engine, files: FileStore) -> None:
    """Rights, too many open files: another time it can be read, and it may have been acknowledged."""
    later = NOW + timedelta(seconds=1)
    path = store(engine, files, 1, later)
    path.rename(path.with_suffix(".aside"))
    path.mkdir()  # reading it fails for root, too
    with write_transaction(engine) as connection:
        connection.execute(tables.instance.update().values(size_bytes=path.stat().st_size))
    record(files, NOW)
    assert drop_lost_objects(engine, files, lambda: NOW + timedelta(minutes=1)) == 0
    assert known(engine) == {"1"}


def test_row_that_names_another_file_by_now_is_not_taken_back(engine: Engine, files: FileStore) -> None:
    store(engine, files, 1, NOW)
    with write_transaction(engine) as connection:
        forget_instances(connection, {"1.2.3.1": "instances/another"})
    assert known(engine) == {"1"}


def test_rows_before_the_point_are_not_looked_at(engine: Engine, files: FileStore) -> None:
    store(engine, files, 1, NOW - timedelta(minutes=1)).unlink()
    record(files, NOW)
    assert drop_lost_objects(engine, files, lambda: NOW) == 0
    assert known(engine) == {"1"}


def test_point_moves_on_once_all_was_looked_at(engine: Engine, files: FileStore) -> None:
    record(files, NOW)
    drop_lost_objects(engine, files, lambda: NOW + timedelta(hours=1))
    assert SyncPoint(files.data_dir).read() == NOW + timedelta(hours=1)


def test_series_that_is_left_empty_goes_and_another_stays(engine: Engine, files: FileStore) -> None:
    later = NOW + timedelta(seconds=1)
    store(engine, files, 1, later)
    store(engine, files, 2, later).unlink()
    store(engine, files, 3, later, series="1.3").unlink()
    record(files, NOW)
    assert drop_lost_objects(engine, files, lambda: NOW) == 2
    with read_transaction(engine) as connection:
        assert connection.scalars(select(tables.series.c.series_instance_uid)).all() == ["1.2"]
    store(engine, files, 3, later, series="1.3")  # its sender sends it again
    assert known(engine) == {"1", "3"}


def test_other_databases_have_no_row_before_its_file(postgresql_engine: Engine, files: FileStore) -> None:
    """And a file that this machine does not see yet may be one that another has acknowledged."""
    with write_transaction(postgresql_engine) as connection:
        empty_tables(connection)
    store(postgresql_engine, files, 1, NOW + timedelta(seconds=1)).unlink()
    record(files, NOW)
    assert drop_lost_objects(postgresql_engine, files, lambda: NOW) == 0
    assert known(postgresql_engine) == {"1"}


def test_without_a_point_nothing_is_looked_at(engine: Engine, files: FileStore) -> None:
    store(engine, files, 1, NOW).unlink()
    assert drop_lost_objects(engine, files, lambda: NOW) == 0
    record(files, NOW)
    SyncPoint(files.data_dir).forget()
    assert drop_lost_objects(engine, files, lambda: NOW) == 0


def test_point_is_recorded_about_once_a_second_and_goes_back_with_the_clock(tmp_path: Path) -> None:
    point = SyncPoint(tmp_path)
    point.open(NOW)
    for seconds, expected in ((0.5, 0), (0.9, 0), (2, 2), (-3600, -3600)):
        point.record(NOW + timedelta(seconds=seconds))
        assert point.read() == NOW + timedelta(seconds=expected)
    point.close()


def test_point_is_never_ahead_of_the_clock(tmp_path: Path) -> None:
    """What is committed after the clock was set back would not be looked at."""
    first, second = SyncPoint(tmp_path), SyncPoint(tmp_path)
    first.open(NOW)
    second.open(NOW - timedelta(hours=1))
    assert first.read() == NOW - timedelta(hours=1)
    first.lower(NOW - timedelta(hours=2))
    assert second.read() == NOW - timedelta(hours=2)
    first.lower(NOW)
    assert second.read() == NOW - timedelta(hours=2)
    first.close()
    second.close()


def test_point_that_another_process_forgot_is_made_again(tmp_path: Path) -> None:
    """Its settings were another durability, for which nothing needs to be looked at."""
    point = SyncPoint(tmp_path)
    point.open(NOW)
    SyncPoint(tmp_path).forget()
    point.record(NOW + timedelta(seconds=2))
    point.record(NOW + timedelta(seconds=4))
    assert SyncPoint(tmp_path).read() == NOW + timedelta(seconds=4)
    point.close()


def test_point_of_an_earlier_process_stays(tmp_path: Path) -> None:
    first, second = SyncPoint(tmp_path), SyncPoint(tmp_path)
    first.open(NOW)
    second.open(NOW + timedelta(hours=1))
    assert second.read() == NOW
    first.close()
    second.close()
