"""Deletes images and results when nothing needs them any more: what is due is decided here, and swept while the node is
idle.

The rows of a study's images go first, in one transaction that checks that nothing has come and nothing wants them;
their files follow. Files that a crash leaves without a row are found by looking, once they are old enough that nobody
can be about to make their row.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from node.jobs.history import job_counts
from node.logs import describe_error, get_logger
from node.route_settings import Route
from node.settings import Settings
from node.store import expiry
from node.store.database import read_transaction, write_transaction
from node.store.expiry import StudyHoldings
from node.store.result_expiry import FORM_INDEX, FinishedResult, expire_result, expired_folders, finished_results
from node.store.tables import JobKind, JobState

if sys.platform != "win32":
    import fcntl

ORPHAN_HOURS = 24.0
"""A file without a row that is older than this was left by a crash. So often is looked for such files."""
_LOOKS_PUT_OFF = 6


@dataclass(frozen=True)
class Due:
    """What may be deleted, and what is past its time and needed all the same."""

    studies: tuple[StudyHoldings, ...]
    needed: tuple[StudyHoldings, ...]
    quarantined: int
    results: tuple[FinishedResult, ...] = ()


@dataclass(frozen=True)
class Swept:
    """What was deleted."""

    studies: int = 0
    images: int = 0
    size_bytes: int = 0
    quarantined: int = 0
    orphans: int = 0
    results: int = 0


def keep_hours(held: StudyHoldings, routes: Mapping[str, Route], images_hours: float) -> float:
    """How long the images of a study are kept: the longest that its routes say; infinite where one says for ever."""
    wanted = [routes[name].retention_hours for name in held.routes if name in routes]
    hours = [images_hours if each is None else each for each in wanted] or [images_hours]
    return float("inf") if 0 in hours else max(hours)


def is_past(held: StudyHoldings, routes: Mapping[str, Route], images_hours: float, now: datetime) -> bool:
    """Whether its time is over."""
    hours = keep_hours(held, routes, images_hours)
    return hours != float("inf") and held.idle_since + timedelta(hours=hours) <= now


def find_due(engine: Engine, settings: Settings, now: datetime) -> Due:
    """What a sweep would delete now."""
    routes = {route.name: route for route in settings.routes}
    retention = settings.retention
    shortest = min(
        (hours for hours in (retention.images_hours, *(each.retention_hours for each in settings.routes)) if hours),
        default=None,
    )
    with read_transaction(engine) as connection:
        held: Sequence[StudyHoldings] = ()
        if shortest is not None:
            held = expiry.settled_studies(connection, now - timedelta(hours=shortest))
        quarantined = 0
        if retention.quarantine_hours:
            quarantined = expiry.quarantine_before(connection, now - timedelta(hours=retention.quarantine_hours))
        ended: Sequence[FinishedResult] = ()
        if retention.results_hours:
            ended = finished_results(connection, now - timedelta(hours=retention.results_hours))
    past = [each for each in held if is_past(each, routes, retention.images_hours, now)]
    return Due(
        studies=tuple(each for each in past if not each.open_jobs),
        needed=tuple(each for each in past if each.open_jobs),
        quarantined=quarantined,
        results=tuple(each for each in ended if is_result_past(each, routes, retention.results_hours, now)),
    )


def is_result_past(finished: FinishedResult, routes: Mapping[str, Route], results_hours: float, now: datetime) -> bool:
    """Whether the time of a result is over: the hours of results, or those of its route where they are longer."""
    route = routes.get(finished.route or "")
    wanted = None if route is None else route.retention_hours
    return wanted != 0 and finished.ended_at + timedelta(hours=max(results_hours, wanted or 0)) <= now


def sweep(engine: Engine, settings: Settings, now: datetime, *, orphans_too: bool = True) -> Swept:
    """Delete what is due, and the files that a crash left. Nothing happens while another process sweeps."""
    data_dir = settings.node.data_dir
    with _only_one(data_dir) as is_alone:
        if not is_alone:
            return Swept()
        due = find_due(engine, settings, now)
        gone = [held for held in due.studies if _delete_study(engine, data_dir, held, now)]
        results = sum(_delete_result(engine, data_dir, each, now) for each in due.results)
        quarantined = _sweep_quarantine(engine, settings, now) if due.quarantined else 0
        orphans = _sweep_orphans(engine, data_dir, now) if orphans_too else 0
    swept = Swept(
        studies=len(gone),
        images=sum(each.images for each in gone),
        size_bytes=sum(each.size_bytes for each in gone),
        quarantined=quarantined,
        orphans=orphans,
        results=results,
    )
    if swept != Swept():
        get_logger("retention").info("swept", **vars(swept))
    return swept


def _delete_study(engine: Engine, data_dir: Path, held: StudyHoldings, now: datetime) -> bool:
    with write_transaction(engine) as connection:
        paths = expiry.expire_study(connection, held, now)
    if paths is None:
        return False
    _remove(data_dir, paths)
    return True


def _delete_result(engine: Engine, data_dir: Path, finished: FinishedResult, now: datetime) -> bool:
    with write_transaction(engine) as connection:
        is_over = expire_result(connection, finished, now)
    if is_over:
        _empty(data_dir / finished.folder)
    return is_over


def _empty(folder: Path) -> int:
    """Remove the files of a result, but what says which objects there were: later reports refer to them."""
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.name != FORM_INDEX:
            path.unlink(missing_ok=True)
            removed += 1
        elif path.is_dir():
            with suppress(OSError):  # the index is in it
                path.rmdir()
    return removed


def _remove(data_dir: Path, paths: Sequence[str]) -> None:
    """Remove files, and the folders that are empty then; what is not there is fine."""
    for path in paths:
        (data_dir / path).unlink(missing_ok=True)
    for folder in {(data_dir / path).parent for path in paths}:
        if folder.name != "quarantine":
            with suppress(OSError):  # not empty, perhaps since this moment, or gone already
                folder.rmdir()


def _sweep_quarantine(engine: Engine, settings: Settings, now: datetime) -> int:
    with write_transaction(engine) as connection:
        before = now - timedelta(hours=settings.retention.quarantine_hours)
        number = expiry.quarantine_before(connection, before)
        paths = expiry.expire_quarantine(connection, before)
    _remove(settings.node.data_dir, paths)
    return number


def _sweep_orphans(engine: Engine, data_dir: Path, now: datetime) -> int:
    """Remove old files of instances that no row knows, and what a crash left of results that were deleted."""
    removed = 0
    newest = now - timedelta(hours=ORPHAN_HOURS)
    for folder in (data_dir / "instances").glob("*/*"):
        old = [str(path.relative_to(data_dir)) for path in _files(folder) if _is_older(path, newest)]
        if not old:
            continue
        with read_transaction(engine) as connection:
            known = expiry.known_paths(connection, folder.name)
        orphans = [name for name in old if name not in known]
        _remove(data_dir, orphans)
        removed += len(orphans)
    with read_transaction(engine) as connection:
        folders = expired_folders(connection)
    return removed + sum(_empty(data_dir / folder) for folder in folders)


def _files(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it was removed meanwhile, or is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_older(path: Path, than: datetime) -> bool:
    """Whether a file was written before then; not one that was removed meanwhile."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < than
    except FileNotFoundError:
        return False


@contextmanager
def _only_one(data_dir: Path) -> Iterator[bool]:
    """Whether this is the only process that sweeps this folder."""
    descriptor = os.open(data_dir / "retention.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield sys.platform == "win32" or _locks(descriptor)
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Sweeper:
    """Sweeps every `retention.sweep_seconds` in a thread of its own, rather while no inference waits or runs."""

    def __init__(self, engine: Engine, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._put_off = 0
        self._looked_for_orphans_at: datetime | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the study that is being deleted."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def look(self) -> Swept | None:
        """Sweep, or put it off while inference works; not for ever."""
        with read_transaction(self._engine) as connection:
            counts = job_counts(connection)
        is_busy = counts[JobKind.INFER, JobState.QUEUED] + counts[JobKind.INFER, JobState.RUNNING] > 0
        if is_busy and self._put_off < _LOOKS_PUT_OFF:
            self._put_off += 1
            return None
        self._put_off = 0
        now, last = self._clock(), self._looked_for_orphans_at
        orphans_too = last is None or now - last > timedelta(hours=ORPHAN_HOURS)
        if orphans_too:
            self._looked_for_orphans_at = now
        return sweep(self._engine, self._settings, now, orphans_too=orphans_too)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.retention.sweep_seconds):
            try:
                self.look()
            except Exception as error:  # the loop outlives a database that is locked or away
                get_logger("retention").error("sweeping_failed", error=describe_error(error))
