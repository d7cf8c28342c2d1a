"""Calls of Linux that Python does not have: sync_file_range(2), renameat2(2). Other systems do without them."""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def _find(name: str) -> Any | None:
    """A function of the C library that speaks to Linux; None elsewhere, or where the library is without it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None


def find_write_back() -> Callable[[int], None]:
    """Lets the disk begin with what was written to a file, so that a later sync waits less; promises nothing by itself.
    sync_file_range(2), and nothing where there is none."""
    native = _find("sync_file_range")
    if native is None:
        return lambda descriptor: None
    native.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def begin_write_back(descriptor: int) -> None:
        native(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)

    return begin_write_back


def find_move() -> Callable[[str, str], None]:
    """Moves a file to a name that nobody has; raises `OSError`, `FileExistsError` where somebody has it.

    In one step where the file system can, and otherwise by a second name for the same file, of which the first is then
    removed.
    """
    native = _find("renameat2")
    if native is None:
        return _move_by_link
    native.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

    def move(source: str, target: str) -> None:
        if native(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_HERE:
            raise OSError(number, os.strerror(number), target)
        _move_by_link(source, target)

    return move


def _move_by_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        # No hard links here (some network and foreign file systems): claim the name, then put the content there.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        shutil.copyfile(source, target)
    Path(source).unlink()
