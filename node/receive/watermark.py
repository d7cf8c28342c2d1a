"""Up to when everything is on disk, as the syncs of one process tell it, while commits and syncs overlap."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.logs import describe_error, get_logger
from node.receive.copies import Copies
from node.store.sync_point import SyncPoint


@dataclass(eq=False)
class Commit:
    """A commit that a sync is to make durable: the moment of its rows, and what is known of it."""

    stamp: datetime
    is_on_disk: bool = False
    has_ended: bool = False


class Watermark:
    """Keeps the sync point and what `Copies` may rely on; any number of threads.

    Parameters
    ----------
    sync_point : SyncPoint
        Where it is kept on disk.
    copies : Copies
        Told of it, and asked for files that nobody trusts.
    now : callable
        The clock.
    """

    def __init__(self, sync_point: SyncPoint, copies: Copies, now: Callable[[], datetime]) -> None:
        self._sync_point = sync_point
        self._copies = copies
        self._now = now
        self._lock = threading.Lock()
        self._unsynced: deque[Commit] = deque()
        self._is_open = False

    def open(self, *, syncs_once: bool) -> None:
        """Before the first object: leave on disk from where rows and files are to be compared after a power cut, if one
        sync is for both. Raises `OSError`."""
        if self._is_open:
            return
        with self._lock:
            if self._is_open:
                return
            if syncs_once:
                self._sync_point.open(self._now())
                self._copies.durable_until = self._sync_point.read()
            else:
                self._sync_point.forget()
            self._is_open = True

    def begin(self, stamp: datetime) -> Commit:
        """Rows were committed; in the order of their commits."""
        commit = Commit(stamp)
        with self._lock:
            self._unsynced.append(commit)
        return commit

    def end(self, commit: Commit, *, is_on_disk: bool) -> None:
        """Its sync is over, or its rows were taken back. It counts once those before it have ended, too."""
        with self._lock:
            commit.has_ended, commit.is_on_disk = True, is_on_disk
            known: datetime | None = None
            while self._unsynced and self._unsynced[0].has_ended:
                ended = self._unsynced.popleft()
                known = ended.stamp if ended.is_on_disk else known
            if known is None:
                return
            self._copies.durable_until = known
            if self._copies.distrusted:  # the next start shall look at them
                return
            try:
                self._sync_point.record(known)
            except OSError as error:  # then the next start looks at more
                get_logger("receive").warning("sync_point_not_recorded", reason=describe_error(error))

    def set_back(self, now: datetime) -> None:
        """The clock was: what is committed from now on is not taken for what is on disk already. Raises `OSError`."""
        with self._lock:
            self._sync_point.lower(now)
            for commit in self._unsynced:
                commit.stamp = min(commit.stamp, now)
            if self._copies.durable_until is not None:
                self._copies.durable_until = min(self._copies.durable_until, now)

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            self._sync_point.close()
            self._is_open = False
