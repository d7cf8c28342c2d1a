"""A file while it is written: gathered into whole blocks, which go past the page cache of the system where they can.

What is received is written once, must reach the disk before it is answered, and is read once, later. In the page cache
it would take a fresh page of memory for every 4 KB, in place of what the node does read again; and where the host of a
virtual machine takes back memory that is free, each of those pages costs more than all else that is done for it
(docs/decisions/0008-past-the-page-cache.md).
"""

import errno
import mmap
import os
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from node.store.digests import new_digest
from node.store.native import BackgroundWriter, find_write_back

if sys.platform != "win32":
    import fcntl

BLOCK_BYTES = 4096
"""What goes past the page cache begins and ends at multiples of this, in the file and in memory. Disks with longer
blocks refuse it, and are written through the cache."""

STAGE_BYTES = 1 << 20
_IDLE_STAGES = 16
_DIRECT = getattr(os, "O_DIRECT", 0)
_begin_write_back = find_write_back()


class Stage:
    """`STAGE_BYTES` of memory aligned to blocks."""

    def __init__(self) -> None:
        self.memory = memoryview(_fresh(STAGE_BYTES))

    @cached_property
    def writer(self) -> BackgroundWriter | None:
        """What writes from it in the background; None where nothing does. Most never need it, and the system takes some
        30 ms to have one back."""
        try:
            return BackgroundWriter()
        except OSError:
            return None


class Stages:
    """Memory in which files are put together; any number of threads."""

    def __init__(self) -> None:
        self._idle: list[Stage] = []

    def borrow(self) -> Stage:
        """One with whatever content."""
        try:
            return self._idle.pop()
        except IndexError:
            return Stage()

    def give_back(self, stage: Stage) -> None:
        """Nobody uses it any more."""
        if len(self._idle) < _IDLE_STAGES:
            self._idle.append(stage)


def _fresh(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class TemporaryFile:
    """A new file, written from its beginning to its end: `write` repeatedly, `finish`, `close`; or `remove`, which is
    all that may follow an error.

    Parameters
    ----------
    path : str
        Nobody else has it. Raises `OSError` when it cannot be made.
    head : bytes
        How the file begins; shorter than `STAGE_BYTES`, and not part of `digest`.
    stages : Stages
        Where to put it together.
    past_cache : bool
        Whether to write past the page cache. Where the file system cannot, it is written through it all the same.
    """

    def __init__(self, path: str, head: bytes, stages: Stages, *, past_cache: bool) -> None:
        self.path = path
        self.digest = new_digest()
        """Of what was written after `head`, once the file is finished."""
        self.descriptor = -1
        self._stages = stages
        self._borrowed: Stage | None = stages.borrow()
        self._stage = self._borrowed.memory
        self._writer: BackgroundWriter | None = None
        self._begun = 0  # bytes from the beginning on that are being written in the background
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except BaseException:
            self._leave_stage()
            raise
        self._is_past_cache = past_cache and self._leave_cache()
        self.is_in_memory = True
        """Nothing is written yet: `content` is all that came."""
        self._is_kept = False
        self._filled = self._fresh = len(head)  # bytes in the stage; from where on they are not digested
        self._stage[: len(head)] = head

    @property
    def content(self) -> memoryview:
        """What is in memory of it; all, while `is_in_memory`. Void after the next call."""
        return self._stage[: self._filled]

    def keep_in_cache(self) -> None:
        """It will be read again soon: what is too long to stay in memory goes through the page cache."""
        if self.is_in_memory:
            self._is_kept = True

    def write(self, part: memoryview) -> None:
        """Take more of the file. Raises `OSError`."""
        while part:
            taken = part[: STAGE_BYTES - self._filled]
            filled = self._filled + len(taken)
            self._stage[self._filled : filled] = taken
            self._filled = filled
            part = part[len(taken) :]
            if filled == STAGE_BYTES:
                if self._is_kept:
                    self._use_cache()
                self._put_all()

    def begin(self) -> None:
        """All has come: let the disk begin with it, where it can, while `content` is read. Raises `OSError`."""
        whole = self._filled - self._filled % BLOCK_BYTES
        if self._borrowed is None or not (self._is_past_cache and self.is_in_memory and whole):
            return
        self._writer = self._borrowed.writer
        if self._writer is None:
            return
        os.ftruncate(self.descriptor, self._filled)  # a file that grows is waited for
        with suppress(OSError):  # `finish` writes it, or says what is wrong
            self._writer.begin(self.descriptor, self._stage[:whole])
            self._begun = whole

    def finish(self) -> None:
        """Write what is left; the file is whole then, and whoever has the descriptor may read it. Raises `OSError`."""
        if self.descriptor >= 0:
            self._put_all()
            self._use_cache()
        self._leave_stage()

    def close(self) -> None:
        """Give the descriptor back; doing so again is fine."""
        self._leave_stage()
        descriptor, self.descriptor = self.descriptor, -1  # whose number is free also when closing fails
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Close it, and let nothing be left of it."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            Path(self.path).unlink()

    def _leave_stage(self) -> None:
        with suppress(OSError):
            self._wait()
        borrowed, self._borrowed = self._borrowed, None
        if borrowed is not None:
            self._stage, self._writer = memoryview(b""), None
            self._stages.give_back(borrowed)

    def _put_all(self) -> None:
        """Write what is in the stage: whole blocks, and if there is more, it is the end of the file."""
        self.is_in_memory = False
        whole = self._filled - self._filled % BLOCK_BYTES if self._is_past_cache else 0
        if self._begun:
            self._take_digest()
            done = self._wait()
            os.lseek(self.descriptor, done, os.SEEK_SET)
        else:
            done = 0
        if done < whole:
            self._put(self._stage[done:whole])
        if whole < self._filled:
            self._use_cache()
            self._put(self._stage[whole : self._filled])
        self._take_digest()
        self._filled = self._fresh = 0

    def _take_digest(self) -> None:
        self.digest.update(self._stage[self._fresh : self._filled])
        self._fresh = self._filled

    def _wait(self) -> int:
        """Until nothing is written in the background any more; how many bytes, in whole blocks, need not be written
        again. Raises `OSError`."""
        begun, self._begun = self._begun, 0
        if not begun or self._writer is None:
            return 0
        try:
            written = self._writer.wait()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0  # the file system cannot: it is told once more, and then goes through the cache
        return written - written % BLOCK_BYTES

    def _put(self, content: memoryview) -> None:
        while content:
            try:
                written = os.write(self.descriptor, content)
            except OSError as error:
                # The file system cannot after all, or took a part of a block when the disk was nearly full.
                if error.errno != errno.EINVAL or not self._is_past_cache:
                    raise
                self._use_cache()
                continue
            content = content[written:]
        if not self._is_past_cache:
            _begin_write_back(self.descriptor)

    def _leave_cache(self) -> bool:
        if not _DIRECT:
            return False
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, _DIRECT)
        except OSError:  # file systems that cannot
            return False
        return True

    def _use_cache(self) -> None:
        if self._is_past_cache:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, 0)
            self._is_past_cache = False
