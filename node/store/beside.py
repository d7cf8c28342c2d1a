"""A digest that is taken beside its caller, in a thread of its own: hashing leaves the interpreter free.

It pays where one association sends: its thread writes the file and reads the header meanwhile. Where several send, the
others are served in that time anyway, so whoever finds the thread at work hashes for himself.
"""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Protocol

_Task = tuple["Digest", Sequence[memoryview], threading.Lock]


class Digest(Protocol):
    """A hash object of `hashlib`."""

    def update(self, piece: memoryview, /) -> object:
        """Take more bytes."""
        ...


class DigestThread:
    """One thread that hashes for one caller at a time; made when it is first wanted."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, digest: Digest, pieces: Sequence[memoryview]) -> Callable[[], object]:
        """Take the digest of these pieces; what is returned waits until that is done, and must be called before they
        become void."""
        if not self._busy.acquire(blocking=False):
            return lambda: _update(digest, pieces)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
            self._thread.start()
        done = threading.Lock()
        done.acquire()
        self._tasks.put((digest, pieces, done))
        return done.acquire

    def close(self) -> None:
        """End the thread, once nobody waits for it any more."""
        with self._busy:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._tasks.put(None)
            thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            digest, pieces, done = task
            try:
                _update(digest, pieces)
            finally:
                self._busy.release()
                done.release()


def _update(digest: Digest, pieces: Sequence[memoryview]) -> None:
    for piece in pieces:
        digest.update(piece)
