"""Decoded frames on disk, between the processes that decode them and the one that loads them.

An entry holds the values of one frame as a volume holds them and nothing else: no header, no patient. It is named by
the file it came from, as that is now (path, size, time of change), and by the rescale that was done, so that another
content or another rescale never finds it. Entries are not synced to the disk, therefore those of an earlier start of
the machine, or of another machine that shares the folder, are never used; what is missing is decoded again.

An entry never changes and is only ever unlinked, so that it may be mapped into memory for as long as somebody likes.

Who decodes a frame marks it first. A mark that nobody holds was left by a process that ended while it decoded: maybe by
fault of this frame, which is decoded with care from then on.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from node.volume.values import AS_STORED, Rescale

LAYOUT = 2
"""Changes when entries of another version would be read wrongly."""

LONGEST_SECONDS = 3600.0
"""Entries live no longer than this: they are there for the next job, not for keeping."""

LONGEST_MARK_SECONDS = 86400.0
"""Marks live longer: a process that hangs is ended after half an hour by default, and its job is tried again later."""

LOCK = "lock"
PART = ".part"
"""Ends the name of an entry that is being made; who makes it holds it locked, and has written `MARK` into it."""

MARK = b"\1"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class FrameCache:
    """Decoded frames below a folder, which several processes share.

    Parameters
    ----------
    folder : Path
        Its own; machines that share it keep their entries apart.
    maximum_bytes : int
        What `trim` leaves at most. With 0 no frame is kept, and only marks are made.
    """

    folder: Path
    maximum_bytes: int

    @functools.cached_property
    def _current(self) -> Path:
        """Looked up once: processes that are given this cache are of the same start of the machine."""
        return self.folder / f"{_start_of_machine()}-{imagecodecs.__version__}-{LAYOUT}"

    def begin(self, now: float) -> None:
        """Make the folder, and take away what is too old of earlier starts, other machines and other versions.

        `now` is seconds since the epoch. Nothing tells another machine's entries from those of an earlier start, so all
        have their time.
        """
        current = self._current
        current.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if each != current and now - each.stat().st_mtime > LONGEST_SECONDS:
                    shutil.rmtree(each, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether this process is the one that decodes ahead, for as long as the context lasts."""
        import fcntl

        with (self._current / LOCK).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def read(
        self,
        source: Path,
        frame: int,
        into: np.ndarray,
        rescale: Rescale = AS_STORED,
        put: Callable[[int], bool] = lambda file: False,
    ) -> bool:
        """Read a frame (from 0) into a C-contiguous array; False when it is not there.

        `put` may take the open file into the place of the array instead, and says whether it did.
        """
        try:
            file = os.open(self._names(source, frame, rescale)[0], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(file).st_size != into.nbytes:
                return False
            return put(file) or fill(file, into.reshape(-1).view(np.uint8).data)
        except OSError:
            return False
        finally:
            os.close(file)

    def has(self, source: Path, frame: int, rescale: Rescale = AS_STORED) -> bool:
        """Whether a frame (from 0) is there; it may be gone when it is read."""
        try:
            return self._names(source, frame, rescale)[0].exists()
        except OSError:
            return False

    @contextlib.contextmanager
    def claim(self, source: Path, frame: int, rescale: Rescale = AS_STORED) -> "Iterator[Claim | None]":
        """The right to decode a frame, once whoever has it has given it back; None where the frame is there by then,
        with this rescale.

        It goes with the process that holds it. A disk that takes nothing refuses nobody.
        """
        try:
            entry, part = self._names(source, frame, rescale)
            file, state = self._open_locked(entry, part)
        except OSError:
            yield Claim(None)
            return
        claimed = None if state is None else Claim(file, state.st_size > 0, keeps=self.maximum_bytes > 0)
        try:
            yield claimed
        finally:
            with contextlib.suppress(OSError):
                if claimed is None:
                    if _is_at(file, part):  # else another's, or what is the entry now
                        part.unlink()
                elif os.fstat(file).st_nlink and not claimed.is_left:  # else it was trimmed away
                    part.rename(entry) if claimed.is_kept else part.unlink()
            os.close(file)

    def trim(self, now: float) -> int:
        """Take away entries and marks that are too old, and the oldest beyond `maximum_bytes`; the bytes that stay.

        `now` is seconds since the epoch, as of file times.
        """
        entries = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._current):
                with contextlib.suppress(OSError):
                    if entry.name == LOCK:
                        continue
                    found = entry.stat()
                    entries.append((found.st_mtime, found.st_size, entry.path))
        entries.sort(reverse=True)
        kept = 0
        for changed, size, path in entries:
            longest = LONGEST_MARK_SECONDS if path.endswith(PART) else LONGEST_SECONDS
            if now - changed > longest or kept + size > self.maximum_bytes:
                Path(path).unlink(missing_ok=True)
            else:
                kept += size
        return kept

    def _names(self, source: Path, frame: int, rescale: Rescale) -> tuple[Path, Path]:
        """The entry, and the file in which it is made and marked, whatever its rescale; OSError when the source is
        gone.
        """
        found = source.stat()
        said = f"{source.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0{frame}"
        name = hashlib.sha256(os.fsencode(said)).hexdigest()[:40]
        entry = f"{name}x{int(rescale.slope)}{int(rescale.intercept):+d}"
        return self._current / entry, self._current / f"{name}{PART}"

    def _open_locked(self, entry: Path, part: Path) -> tuple[int, os.stat_result | None]:
        """The file in which this entry is made, once nobody else has it, and its state; None where the entry is there.

        Raises OSError where the disk does not take it.
        """
        import fcntl

        while True:
            try:
                file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # another machine may have taken the folder for old
                self._current.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if entry.exists():
                    return file, None
                if _is_at(file, part):
                    return file, os.fstat(file)
            except OSError:
                os.close(file)
                raise
            os.close(file)  # its last holder took it away, or made an entry of another rescale of it


class Claim:
    """A frame that is being decoded; without a file nothing is kept or known of it.

    `is_suspect` says that the last one who decoded it ended meanwhile.
    """

    def __init__(self, file: int | None, is_suspect: bool = False, keeps: bool = False) -> None:
        self._file, self._keeps = file, keeps
        self.is_suspect = is_suspect
        self.is_kept = False
        self.is_left = False
        if file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(file, MARK, 0)

    def keep(self, values: np.ndarray) -> None:
        """Write the values. What the disk does not take is decoded again by who asks for it."""
        if self._file is None or not self._keeps:
            return
        with contextlib.suppress(OSError):
            content, done = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, 0
            while done < len(content):  # over the mark: to cut the file off first would have it written to the disk
                done += os.pwrite(self._file, content[done:], done)
            self.is_kept = True

    def leave(self) -> None:
        """Leave the mark where it is: the frame is as suspect to the next one."""
        self.is_left = True


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def fill(file: int, target: memoryview, offset: int = 0, done: int = 0) -> bool:
    """Read a file from `offset` on until `target`, which has `done` bytes by now, is full; False when it ends first."""
    while done < len(target):
        count = os.preadv(file, [target[done:]], offset + done)
        if not count:
            return False
        done += count
    return True


def _start_of_machine() -> str:
    """Names the time since the machine was started; where it is not known, that of this process."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{os.getpid()}-{time.time_ns()}"
