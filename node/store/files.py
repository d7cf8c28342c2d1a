"""The files below `data_dir`, and what makes them durable.

    incoming/<session>/     being received; swept at start, unless its process still runs
    instances/ab/<series>/  one file per SOP instance, named after its UID, the digest of its content and a token
    quarantine/             what could not be taken
    results/<job id>/       what inference made
    backup/                 copies of the database before a migration

A file gets its final name where nobody has it, never by replacing: nothing that was acknowledged can be overwritten,
by whatever arrives later or in another process. Paths given out for the database are relative to `data_dir`.
"""

import contextlib
import hashlib
import itertools
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from node.errors import Permanent
from node.store.file_system import FileSystem
from node.store.native import find_move
from node.store.temporary import Stages, TemporaryFile

if sys.platform != "win32":
    import fcntl

_ROOM_SECONDS = 0.2
_BEING_MADE = ".new"
_FOLDERS = ("incoming", "instances", "quarantine", "results", "backup")


class FileStore:
    """The files of one node. Several processes may use the same `data_dir` at once.

    Parameters
    ----------
    data_dir : Path
        Made with its folders when it does not exist.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        for folder in _FOLDERS:
            (data_dir / folder).mkdir(parents=True, exist_ok=True)
        self._room = (-math.inf, 0)  # when it was asked for (`time.monotonic`), and bytes
        self._session: Path | None = None
        self._session_lock: int | None = None
        self._numbers = itertools.count(1)
        self._token = secrets.token_hex(5)  # with a number, in names that nobody else gives
        self._known_folders: dict[str, str] = {}  # by Series Instance UID
        self._stages = Stages()
        self._past_cache = True
        self._move = find_move()
        self.file_system = FileSystem(data_dir / "instances")  # which may be a link to, or a mount of, another disk

    def result_folder(self, job_id: int) -> Path:
        """Where the Result of a job and its objects are kept; not made here."""
        return self.data_dir / "results" / str(job_id)

    @property
    def backup_folder(self) -> Path:
        return self.data_dir / "backup"

    def absolute(self, relative: str) -> Path:
        """The path of something named in the database."""
        return self.data_dir / relative

    def free_bytes(self) -> int:
        """Room for an unprivileged process on the file system of `data_dir`, as it was at most `_ROOM_SECONDS` ago."""
        now = time.monotonic()
        asked_at, free = self._room
        if now - asked_at > _ROOM_SECONDS:
            free = shutil.disk_usage(self.data_dir).free
            self._room = (now, free)
        return free

    def open_session(self, *, past_cache: bool = True) -> int:
        """Claim a folder for temporary files and sweep those of processes that are gone; how many files
        were swept. They are written past the page cache of the system if wanted. Raises `Permanent` where no file could
        ever be given its final name."""
        self._past_cache = past_cache
        incoming = self.data_dir / "incoming"
        if not self.file_system.holds(incoming):
            raise Permanent(
                "incoming/ and instances/ lie on two file systems: put both of them on one, best all of node.data_dir"
            )
        self.file_system.watch()
        session = incoming / secrets.token_hex(8)
        being_made = session.with_suffix(_BEING_MADE)
        being_made.mkdir()
        self._session_lock = os.open(being_made / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _try_lock(self._session_lock)
        being_made.rename(session)  # locked by now: nobody who sweeps meanwhile takes it for abandoned
        self._session = session
        others = [folder for folder in incoming.iterdir() if folder != session and folder.suffix != _BEING_MADE]
        return sum(_sweep(folder) for folder in others)

    def close_session(self) -> None:
        """Give the folder for temporary files back, with what is still in it."""
        self.file_system.close()
        if self._session is None or self._session_lock is None:
            return
        shutil.rmtree(self._session, ignore_errors=True)
        os.close(self._session_lock)
        self._session = self._session_lock = None

    def new_temporary(self, head: bytes = b"") -> TemporaryFile:
        """A new file that begins with `head`. Raises `OSError`."""
        if self._session is None:
            raise RuntimeError("open_session() comes before new_temporary()")
        path = f"{self._session}/{next(self._numbers)}.part"
        return TemporaryFile(path, head, self._stages, past_cache=self._past_cache)

    def place(self, temporary: str, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
        """Move a whole temporary file to its final name; the relative path. Not yet durable: see `sync`.

        No name is used twice: whoever removes a file of the name that was given to it removes no other.
        """
        folder = self._known_folders.get(series_instance_uid) or self._make_folder(series_instance_uid)
        relative = f"{folder}/{sop_instance_uid}-{digest[:12]}-{self._token}{next(self._numbers):x}.dcm"
        target = f"{self.data_dir}/{relative}"
        try:
            self._move(temporary, target)
        except FileNotFoundError:  # the folder was removed after its series was
            self._make_folder(series_instance_uid)
            self._move(temporary, target)
        return relative

    def sync(self, relatives: Iterable[str], *, each: bool = False) -> None:
        """Make placed files durable, content and names: one `syncfs` for all, or fsync one by one. Raises
        `OSError`."""
        if self.file_system.can_sync and not each:
            self.file_system.sync()
            return
        folders: set[Path] = set()
        for relative in relatives:
            path = self.data_dir / relative
            _fsync(path)
            folders |= {path.parent, path.parent.parent, path.parent.parent.parent}
        if sys.platform != "win32":
            for folder in sorted(folders, reverse=True):
                _fsync(folder)

    def remove(self, relative: str) -> None:
        """Remove a placed file; absent is fine."""
        (self.data_dir / relative).unlink(missing_ok=True)

    def set_aside(self, path: Path | str, name: str) -> str:
        """Move a file to quarantine/ under `name` and a token; the relative path. Durable when this
        returns."""
        relative = f"quarantine/{name[:100]}-{secrets.token_hex(6)}.dcm"
        Path(path).rename(self.data_dir / relative)
        _fsync(self.data_dir / relative)
        if sys.platform != "win32":
            _fsync(self.data_dir / "quarantine")
        return relative

    def _make_folder(self, series_instance_uid: str) -> str:
        shard = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:2]
        relative = f"instances/{shard}/{series_instance_uid}"
        (self.data_dir / relative).mkdir(parents=True, exist_ok=True)
        if len(self._known_folders) > 10_000:
            self._known_folders.clear()
        self._known_folders[series_instance_uid] = relative
        return relative


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock a file against other processes until it is closed; False when one holds it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(folder: Path) -> int:
    """Remove a session folder whose process is gone; how many temporary files were in it."""
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            lock = -1  # killed before the lock was there, or just being made
        except NotADirectoryError:
            folder.unlink(missing_ok=True)
            return 1
        if lock < 0:
            return 0
        stack.callback(os.close, lock)
        if not _try_lock(lock):
            return 0
        swept = sum(1 for entry in folder.iterdir() if entry.name != ".lock")
        shutil.rmtree(folder, ignore_errors=True)
        return swept
