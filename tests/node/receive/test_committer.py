"""The committer with a disk that can be watched: what is durable when, and what becomes of a group that cannot be."""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.exc import OperationalError

from node.errors import Refused
from node.receive.committer import Committer
from node.receive.intake import IncomingObject, Intake
from node.store import tables
from node.store.database import open_database, read_transaction, write_transaction
from node.store.digests import is_old, matches
from node.store.files import FileStore
from node.store.sync_point import SyncPoint
from tests.counterparts import wait_until
from tests.node.receive.objects import begin, in_session, taking
from tests.node.receive.wire import Encoded

PATIENCE = 90


class WatchedFiles(FileStore):
    """Calls `syncing` in place of each sync."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.syncing: Callable[[], None] = lambda: None
        self.syncs = 0
        self.file_system._native = self._sync
        self.file_system._tells_of_names = True

    def _sync(self, descriptor: int) -> None:
        self.syncs += 1
        self.syncing()


@pytest.fixture
def engine(empty_database: Path, tmp_path: Path) -> Iterator[Engine]:
    """On the file system of the files."""
    engine = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'overread.sqlite')}")
    yield engine
    engine.dispose()


@pytest.fixture
def files(engine: Engine) -> Iterator[WatchedFiles]:
    database = engine.url.database
    assert database is not None
    with in_session(WatchedFiles(Path(database).parent)) as files:
        yield files


@pytest.fixture
def intake(engine: Engine, files: WatchedFiles) -> Iterator[Intake]:
    with taking(engine, files) as intake:
        yield intake


@contextmanager
def failing_syncs(files: WatchedFiles) -> Iterator[None]:
    """The disk fails in each sync."""

    def fail() -> None:
        raise OSError(5, os.strerror(5))

    files.syncing = fail
    yield
    files.syncing = lambda: None


def rows(engine: Engine, table: str = "instance") -> int:
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(tables.metadata.tables[table])) or 0


def placed(files: FileStore) -> list[Path]:
    return list((files.data_dir / "instances").rglob("*.dcm"))


def test_one_sync_comes_after_the_row_and_before_the_answer(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    seen: list[tuple[int, int]] = []
    files.syncing = lambda: seen.append((rows(engine), len(placed(files))))
    begin(intake, images[0]).complete()
    assert seen == [(1, 1)], "the sync saw no row or no file"


def test_disk_that_cannot_sync_takes_the_row_back(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()

    with failing_syncs(files):
        for image in images[:2]:  # one that is known, and a new one
            with pytest.raises(Refused) as refused:
                begin(intake, image).complete()
            assert refused.value.status == 0xA700
        assert rows(engine) == 1 and len(placed(files)) == 1
    begin(intake, images[1]).complete()
    assert rows(engine) == 2 and len(placed(files)) == 2


def test_first_object_of_a_series_that_cannot_be_synced_leaves_no_series(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    def fail() -> None:
        raise OSError(5, os.strerror(5))

    files.syncing = fail
    with pytest.raises(Refused):
        begin(intake, images[0]).complete()
    assert rows(engine, "series") == 0 and not placed(files)


def test_bytes_written_before_a_failed_sync_are_never_acknowledged(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    """The system tells of a failure once: a later sync that succeeds says nothing of what was written before."""
    under_way = begin(intake, images[0])

    with failing_syncs(files), pytest.raises(Refused):
        begin(intake, images[1]).complete()
    with pytest.raises(Refused):
        under_way.complete()
    assert rows(engine) == 0 and not placed(files)


class CountedLock:
    """A lock that knows how many threads ever asked for it."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class FirstSync:
    """The first sync waits for `may_end` and raises `error`, if one is given; those after it succeed."""

    def __init__(self, files: WatchedFiles, error: OSError | None = None) -> None:
        self.may_end = threading.Event()
        self._begun = threading.Event()
        self._error = error
        self._asking = CountedLock()
        files.file_system._syncing = cast(threading.Lock, self._asking)
        files.syncing = self._sync

    def wait_for(self, threads: int) -> None:
        """Until so many asked for a sync, the first of which runs."""
        assert self._begun.wait(PATIENCE)
        wait_until(lambda: self._asking.asked == threads, "threads that ask for a sync")

    def _sync(self) -> None:
        is_first = not self._begun.is_set()
        self._begun.set()
        if is_first:
            assert self.may_end.wait(PATIENCE)
            if self._error is not None:
                raise self._error


def begin_threads(
    intake: Intake, images: list[Encoded], first: FirstSync, refusals: list[Refused]
) -> list[threading.Thread]:
    """One for each image: the sync of the first one's runs, and rows of all are committed."""

    def complete(incoming: IncomingObject) -> None:
        try:
            incoming.complete()
        except Refused as refusal:
            refusals.append(refusal)

    threads = [threading.Thread(target=complete, args=(begin(intake, image),)) for image in images]
    for number, thread in enumerate(threads, 1):
        thread.start()
        first.wait_for(number)
    return threads


def test_rows_are_committed_while_others_are_synced_and_share_the_next_sync(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    refusals: list[Refused] = []
    first = FirstSync(files)
    threads = begin_threads(intake, images, first, refusals)
    assert rows(engine) == len(images) and all(thread.is_alive() for thread in threads)  # nobody is answered
    first.may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert files.syncs == 2 and rows(engine) == len(images) and not refusals


def test_leader_waits_for_an_object_of_which_all_has_come(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.receive.groups.GATHER_SECONDS", PATIENCE)
    threads = [threading.Thread(target=begin(intake, image).complete) for image in images]
    with intake.committer.expect():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(placed(files)) == len(images), "files in place")
        assert rows(engine) == 0 and files.syncs == 0
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert rows(engine) == len(images)


def test_nobody_waits_long_for_an_object_that_was_expected(
    engine: Engine, intake: Intake, images: list[Encoded]
) -> None:
    with intake.committer.expect():
        begin(intake, images[0]).complete()
        assert rows(engine) == 1


def test_failed_sync_is_of_those_too_whose_rows_were_committed_meanwhile(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    refusals: list[Refused] = []
    first = FirstSync(files, OSError(errno.EIO, "failed"))
    threads = begin_threads(intake, images, first, refusals)
    first.may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [refusal.status for refusal in refusals] == [0xA700] * len(images)
    assert rows(engine) == 0 and not placed(files)
    begin(intake, images[0]).complete()
    assert rows(engine) == 1


def test_damaged_file_is_healed_when_its_object_comes_again(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()
    (path,) = placed(files)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with write_transaction(engine) as connection:  # as if by a sender whose longer AE title moved the pixels
        connection.execute(update(tables.instance).values(pixel_offset=7))
    begin(intake, images[0]).complete()
    (healed,) = placed(files)
    with read_transaction(engine) as connection:
        row = connection.execute(select(tables.instance)).one()
    assert files.absolute(row.path) == healed
    assert healed.read_bytes().endswith(images[0].data_set) and row.size_bytes == healed.stat().st_size
    assert healed.read_bytes()[row.pixel_offset :][: row.pixel_length] == images[0].data_set[-row.pixel_length :]


def test_rows_and_files_on_two_file_systems_are_synced_one_after_the_other(
    engine: Engine, files: WatchedFiles, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.file_system, "holds", lambda path: False)
    seen: list[int] = []
    files.syncing = lambda: seen.append(rows(engine))
    with taking(engine, files) as intake:
        begin(intake, images[0]).complete()
    assert seen == [0] and rows(engine) == 1
    assert not (files.data_dir / "synced").exists()


def test_other_file_system_bytes_before_a_failed_sync_are_never_acknowledged(
    engine: Engine, files: WatchedFiles, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with one sync: it may have been a storage commitment to which the failure was told."""
    monkeypatch.setattr(files.file_system, "holds", lambda path: False)
    with taking(engine, files) as intake:
        under_way = begin(intake, images[0])
        with failing_syncs(files), pytest.raises(OSError, match="error"):
            files.file_system.sync()
        with pytest.raises(Refused):
            under_way.complete()
    assert rows(engine) == 0 and not placed(files)


def test_log_that_may_have_a_gap_is_emptied_before_anything_is_acknowledged(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()

    with failing_syncs(files):
        with pytest.raises(Refused):
            begin(intake, images[1]).complete()
        log = Path(f"{engine.url.database}-wal")
        grown = log.stat().st_size
    begin(intake, images[1]).complete()
    assert rows(engine) == 2 and 0 < log.stat().st_size < grown


def test_log_is_emptied_whoever_was_told_of_the_failure(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()
    log = Path(f"{engine.url.database}-wal")
    grown = log.stat().st_size

    with failing_syncs(files), pytest.raises(OSError, match="error"):  # as a storage commitment may
        files.file_system.sync()
    begin(intake, images[1]).complete()
    assert rows(engine) == 2 and 0 < log.stat().st_size < grown


def test_object_that_another_process_takes_back_stays_with_whoever_acknowledged_it(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    """Both processes see the row at once; only one of them is told of a failure."""

    def fail() -> None:
        begin(intake, images[0]).complete()
        raise OSError(5, os.strerror(5))

    with in_session(WatchedFiles(files.data_dir)) as others, taking(engine, others) as theirs:
        others.syncing = fail
        with pytest.raises(Refused):
            begin(theirs, images[0]).complete()
        (kept,) = placed(files)
        with read_transaction(engine) as connection:
            assert files.absolute(connection.scalar(select(tables.instance.c.path)) or "") == kept
        assert kept.read_bytes().endswith(images[0].data_set)


def test_object_that_another_process_made_durable_keeps_its_file(
    engine: Engine, files: WatchedFiles, images: list[Encoded]
) -> None:
    """Also for a process that had nothing to do since: somebody may be reading the file."""
    times = iter(datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in range(24))
    with (
        in_session(WatchedFiles(files.data_dir)) as others,
        taking(engine, files, now=lambda: next(times)) as idle,
        taking(engine, others, now=lambda: next(times)) as busy,
    ):
        begin(idle, images[1]).complete()
        begin(busy, images[0]).complete()
        before = set(placed(files))
        begin(idle, images[0]).complete()
        assert set(placed(files)) == before and len(before) == 2


def test_row_that_vanishes_before_its_copy_is_answered_is_written_again(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(intake, images[0]).complete()
    settle = intake.committer._copies.settle

    def vanish(*arguments: Any) -> bool:
        monkeypatch.undo()
        with write_transaction(engine) as connection:
            connection.execute(delete(tables.instance))
        return settle(*arguments)

    monkeypatch.setattr(intake.committer._copies, "settle", vanish)
    begin(intake, images[0]).complete()
    assert rows(engine) == 1


def test_point_that_cannot_be_written_hides_no_doubt(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    begin(intake, images[0]).complete()
    monkeypatch.setattr(SyncPoint, "_write", fail)
    monkeypatch.setattr("node.store.sync_point._RECORD_SECONDS", 0)
    under_way = begin(intake, images[1])
    begin(intake, images[2]).complete()
    files.syncing = lambda: fail()
    with pytest.raises(OSError, match="No space"):
        files.file_system.sync()
    files.syncing = lambda: None
    with pytest.raises(Refused):
        under_way.complete()
    assert rows(engine) == 2


def test_clock_that_is_set_back_leaves_no_row_unlooked_at(
    engine: Engine, files: WatchedFiles, images: list[Encoded]
) -> None:
    times = iter(datetime(2026, 3, 1, 12, tzinfo=UTC) - timedelta(hours=hours) for hours in range(9))

    def look() -> None:
        point = SyncPoint(files.data_dir).read()
        with read_transaction(engine) as connection:
            newest = connection.scalar(select(func.min(tables.instance.c.received_at)))
        assert point is not None and newest is not None and point <= newest
        looked.append(point)

    looked: list[datetime] = []
    files.syncing = look
    with taking(engine, files, now=lambda: next(times)) as intake:
        for image in images[:2]:
            begin(intake, image).complete()
    assert looked[1] < looked[0]


def test_file_that_could_not_be_withdrawn_is_not_trusted(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes can be read from memory, and may never reach the disk."""

    def fail() -> None:
        raise OSError(5, os.strerror(5))

    def refuse(*arguments: object) -> None:
        raise OperationalError("", {}, Exception())

    files.syncing = fail
    with monkeypatch.context() as broken:
        broken.setattr("node.receive.committer.forget_instances", refuse)
        with pytest.raises(Refused):
            begin(intake, images[0]).complete()
    (doubtful,) = placed(files)
    assert rows(engine) == 1
    files.syncing = lambda: None
    begin(intake, images[0]).complete()
    (written_anew,) = placed(files)
    assert written_anew != doubtful and rows(engine) == 1


def test_next_start_looks_at_what_could_not_be_withdrawn(
    engine: Engine, files: WatchedFiles, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in range(24))

    def refuse(*arguments: object) -> None:
        raise OperationalError("", {}, Exception())

    with taking(engine, files, now=lambda: next(times)) as intake:
        with failing_syncs(files), monkeypatch.context() as broken:
            broken.setattr("node.receive.committer.forget_instances", refuse)
            with pytest.raises(Refused):
                begin(intake, images[0]).complete()
        begin(intake, images[1]).complete()
    with read_transaction(engine) as connection:
        oldest = connection.scalar(select(func.min(tables.instance.c.received_at)))
    point = SyncPoint(files.data_dir).read()
    assert rows(engine) == 2 and point is not None and oldest is not None and point < oldest


def test_copy_that_heals_is_on_disk_before_a_row_names_it(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(intake, images[0]).complete()
    (known,) = placed(files)
    known.write_bytes(b"")

    def look(relatives: list[str], *, each: bool = False) -> None:
        with read_transaction(engine) as connection:
            assert files.absolute(connection.scalar(select(tables.instance.c.path)) or "") == known
        assert each and known.exists() and [files.absolute(one) for one in relatives] != [known]
        looked.append(each)

    looked: list[bool] = []
    monkeypatch.setattr(files, "sync", look)
    begin(intake, images[0]).complete()
    assert looked and not known.exists()


def test_row_that_vanished_meanwhile_is_no_harm(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()
    with write_transaction(engine) as connection:
        connection.execute(delete(tables.instance))
    begin(intake, images[0]).complete()
    assert rows(engine) == 1


def path_of_row(engine: Engine, image: Encoded) -> str | None:
    mine = tables.instance.c.sop_instance_uid == image.sop_instance
    with read_transaction(engine) as connection:
        return connection.scalar(select(tables.instance.c.path).where(mine))


def fail_after_rows(intake: Intake, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The next group is committed, and then `error` is raised."""
    write = intake.committer._write_rows

    def fail(*arguments: Any) -> None:
        write(*arguments)
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(intake.committer, "_write_rows", fail)


def test_file_that_a_row_names_stays_whatever_happens(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_rows(intake, monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        begin(intake, images[0]).complete()
    path = path_of_row(engine, images[0])
    assert path is not None and files.absolute(path).exists()


def test_row_that_stays_of_a_refused_object_is_not_relied_on(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sync of its own was for it, and one failed since: what the memory has of its file the disk may not have."""
    fail_after_rows(intake, monkeypatch, OSError(5, os.strerror(5)))
    with pytest.raises(Refused):
        begin(intake, images[0]).complete()
    before = path_of_row(engine, images[0])

    with failing_syncs(files), pytest.raises(Refused):
        begin(intake, images[1]).complete()
    begin(intake, images[2]).complete()
    begin(intake, images[0]).complete()
    assert before is not None and path_of_row(engine, images[0]) not in (None, before)


def test_row_of_the_moment_to_which_the_clock_was_set_back_is_not_taken_for_synced(
    engine: Engine, files: WatchedFiles, images: list[Encoded]
) -> None:
    hours = [12]
    committer = Committer(
        engine,
        files,
        lambda: None,
        durability="group",
        quiet_seconds=30,
        now=lambda: datetime(2026, 3, 1, hours[0], tzinfo=UTC),
    )
    intake = Intake(files, committer, free_disk_bytes=0)
    begin(intake, images[0]).complete()
    hours[0] = 11
    seen: list[bool] = []
    files.syncing = lambda: seen.append(committer._copies._is_durable(datetime(2026, 3, 1, 11, tzinfo=UTC)))
    begin(intake, images[1]).complete()
    assert seen == [False]
    committer.close()


def test_object_that_comes_while_another_of_it_is_taken_back_keeps_its_file(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    """The first is refused. The second takes its place meanwhile, and the third that of the second."""

    def fail() -> None:
        for _ in range(2):  # neither knows that the row of the one before is on disk
            with taking(engine, files) as again:
                begin(again, images[0]).complete()
        raise OSError(5, os.strerror(5))

    with in_session(WatchedFiles(files.data_dir)) as others, taking(engine, others) as theirs:
        others.syncing = fail
        with pytest.raises(Refused):
            begin(theirs, images[0]).complete()
    path = path_of_row(engine, images[0])
    assert path is not None and files.absolute(path).exists()


def test_object_with_a_digest_of_an_earlier_version_is_healed_when_it_comes_again(
    engine: Engine, files: WatchedFiles, intake: Intake, images: list[Encoded]
) -> None:
    begin(intake, images[0]).complete()
    (path,) = placed(files)
    path.write_bytes(path.read_bytes()[:-1])
    old = "sha256:" + hashlib.sha256(images[0].data_set).hexdigest()
    with write_transaction(engine) as connection:
        connection.execute(update(tables.instance).values(digest=old))
    other = replace(images[0], data_set=images[0].data_set[:-2] + b"ab")
    with pytest.raises(Refused) as refused:
        begin(intake, other).complete()
    assert refused.value.status == 0xC001
    begin(intake, images[0]).complete()
    (healed,) = placed(files)
    with read_transaction(engine) as connection:
        row = connection.execute(select(tables.instance)).one()
    assert files.absolute(row.path) == healed and matches(healed, row.digest) and not is_old(row.digest)
