"""Calls of Linux that Python does not have: sync_file_range(2), renameat2(2), io_submit(2) and what goes with it.

Other systems do without them.
"""

import ctypes
import errno
import os
import platform
import shutil
import struct
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_AIO_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}  # io_setup, io_destroy, io_getevents, io_submit
_IO_CONTROL_BLOCK = struct.Struct("<QIiHhIQQqQII")  # data, key, flags, operation, ..., file, memory, bytes, offset, ...
_IO_EVENT = struct.Struct("<QQqq")  # data, object, result, second result
_PWRITE = 1
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


class BackgroundWriter:
    """Writes one piece of memory into a file while the caller goes on; one at a time. Where a file is written past the
    page cache and has its length already, the call that begins it does not wait for the disk.

    Raises `OSError` where the system does not have this, or has no more of it: it is given back when nobody refers to
    the writer any more, and nothing may be under way then. No library stands between, since those that there are
    (caio) ask for an event loop and a thread that is woken; here the thread that begins is the one that waits.
    """

    def __init__(self) -> None:
        self._context = ctypes.c_ulong(0)
        calls = _AIO_CALLS.get(platform.machine()) if sys.maxsize > 1 << 32 else None
        system_call = _find("syscall")
        if calls is None or system_call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._system_call = system_call
        setup, destroy, self._get_events, self._submit = calls
        self._control = ctypes.create_string_buffer(_IO_CONTROL_BLOCK.size)
        self._controls = (ctypes.c_void_p * 1)(ctypes.addressof(self._control))
        self._event = ctypes.create_string_buffer(_IO_EVENT.size)
        self._call(setup, ctypes.c_long(1), ctypes.byref(self._context))
        self._give_back = weakref.finalize(self, system_call, ctypes.c_long(destroy), self._context)
        self._give_back.atexit = False

    def begin(self, descriptor: int, content: memoryview) -> None:
        """Write `content` at the beginning of a file; it stays as it is until `wait`, which must follow. Raises
        `OSError`, and nothing was begun."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(content))
        _IO_CONTROL_BLOCK.pack_into(
            self._control, 0, 0, 0, 0, _PWRITE, 0, descriptor, address, len(content), 0, 0, 0, 0
        )
        if self._call(self._submit, self._context, ctypes.c_long(1), self._controls) != 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def wait(self) -> int:
        """How many bytes were written, at least one. Raises `OSError`; nothing is under way then either. It is EIO
        where the system does not say what became of it, and this writer begins nothing any more."""
        came, one = 0, ctypes.c_long(1)
        while came != 1:
            try:
                came = self._call(self._get_events, self._context, one, one, self._event, None)
            except InterruptedError:
                continue
            except OSError:
                self._give_back()  # which waits for what is under way: the memory may be used again then
                self._context = ctypes.c_ulong(0)  # the number may become another writer's
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        result = int(_IO_EVENT.unpack(self._event.raw)[2])
        if result <= 0:
            number = -result or errno.EIO
            raise OSError(number, os.strerror(number))
        return result

    def _call(self, number: int, *arguments: Any) -> int:
        result = int(self._system_call(ctypes.c_long(number), *arguments))
        if result < 0:
            failure = ctypes.get_errno()
            raise OSError(failure, os.strerror(failure))
        return result
