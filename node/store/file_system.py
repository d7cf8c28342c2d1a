"""One sync for everything on a file system: syncfs(2).

What was written before `FileSystem.sync` is called is on disk when it returns, by whichever process: files, their
names, and the log of a database that lies on the same file system. Calls that come while a sync is running share the
next one.

Only where that is known to be so: OverlayFS does not tell of what the file system below it could not write, FUSE does
not pass the call on. And where a file system has given up after an error, the call may succeed and write nothing:
therefore a sync that succeeds is followed by a change that must.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# statfs(2): ext2 to ext4, XFS, Btrfs, F2FS and tmpfs write all that is dirty, and tell of what they could not.
_TRUSTED_KINDS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})


class FileSystem:
    """The file system that holds a folder; any number of threads.

    A descriptor stays open from the first use on, because the system tells each descriptor once of what it could not
    write since it was opened. `failed_syncs` therefore says more than the exception that one caller gets: whatever was
    written since before the last failure may be lost, also when a later sync succeeds.

    Parameters
    ----------
    folder : Path
        Any folder on it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._native = _find_syncfs(folder)
        self._tells_of_names = _kernel() >= [5, 17]
        self._descriptor = -1
        self._nameless = -1
        self._nameless_bytes = 0
        self._counting = threading.Lock()
        self._syncing = threading.Lock()
        self._begun = 0
        self._done = 0  # the number of the last that succeeded
        self.failed_syncs = 0

    @property
    def can_sync(self) -> bool:
        """False where there is no syncfs that reports errors of files (other systems than Linux, kernels before
        5.8, other file systems than are known to)."""
        return self._native is not None

    @property
    def can_commit(self) -> bool:
        """Whether a sync that succeeds says that names are on disk, too. Before Linux 5.17 syncfs kept it to itself
        when the journal of the file system could not be written."""
        return self._native is not None and self._tells_of_names

    def holds(self, path: Path) -> bool:
        """Whether a path lies on this file system, so that one sync is for both."""
        try:
            return path.resolve().stat().st_dev == self._folder.stat().st_dev
        except OSError:
            return False

    def watch(self) -> None:
        """Be told from now on of what could not be written. Raises `OSError`."""
        with self._counting:
            if self._descriptor < 0:
                self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Make durable what was written before this call. Raises `OSError`."""
        if self._native is None:
            raise RuntimeError("there is no syncfs here: ask can_sync first")
        self.watch()
        with self._counting:
            asked_after = self._begun
        with self._syncing:
            if self._done > asked_after:  # one that began after we asked was for us too
                return
            with self._counting:
                self._begun += 1
            try:
                self._native(self._descriptor)
                self._try_a_change()
            except OSError:
                self.failed_syncs += 1
                raise
            self._done = self._begun

    def _try_a_change(self) -> None:
        """Raises `OSError` where the file system has given up: its journal failed, or it became read-only. ext4 may let
        the very sync succeed in which that happened. A file without a name becomes a byte longer or shorter; a new one
        each time would cost dearly: ext4 without a journal leaves the inode of a file that went alone for a minute, and
        steps over all of those whenever it looks for another."""
        if self._nameless < 0:
            self._nameless = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._nameless_bytes = 0
        os.ftruncate(self._nameless, 1 - self._nameless_bytes)
        self._nameless_bytes = 1 - self._nameless_bytes

    def close(self) -> None:
        """Give the descriptors back."""
        with self._syncing, self._counting:
            for descriptor in (self._descriptor, self._nameless):
                if descriptor >= 0:
                    os.close(descriptor)
            self._descriptor = self._nameless = -1


def _kernel() -> list[int]:
    """Version and patch level of the kernel."""
    release = os.uname().release.split(".")
    return [int("".join(filter(str.isdigit, part)) or 0) for part in release[:2]]


def _find_syncfs(folder: Path) -> Callable[[int], None] | None:
    """syncfs(2), which reports write errors since Linux 5.8; None where there is none, or none that can be trusted."""
    if not sys.platform.startswith("linux"):
        return None
    if _kernel() < [5, 8]:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        native, statfs = library.syncfs, library.statfs
    except (OSError, AttributeError):
        return None
    described = (ctypes.c_long * 64)()  # more than any struct statfs; f_type is its first member
    if statfs(os.fsencode(folder), described) != 0 or described[0] & 0xFFFFFFFF not in _TRUSTED_KINDS:
        return None

    def sync_file_system(descriptor: int) -> None:
        if native(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return sync_file_system
