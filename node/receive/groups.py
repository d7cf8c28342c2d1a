"""Which objects are committed together, and in which thread: whoever comes when nobody leads, leads.

The leader waits a moment for objects of which all has come and only writing and digest are missing: a larger group
costs each of its members less. Nobody waits for a sender.
"""

import threading
from dataclasses import dataclass, field

from node.errors import Refused
from node.store.catalogue import ReceivedInstance, StoreOutcome

GATHER_SECONDS = 0.002


def _closed() -> threading.Lock:
    """A lock that is held: a tenth of the work of an event, of which each object needs one."""
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class Waiting:
    """One received object on its way: a whole file in its place, and what became of it. Its thread waits at the `gate`,
    which is opened once for each time that it may go on."""

    instance: ReceivedInstance
    placed: str
    failed_before: int
    gate: threading.Lock = field(default_factory=_closed)
    outcome: StoreOutcome | None = None
    refusal: Refused | None = None

    @property
    def is_answered(self) -> bool:
        """Whether it is known what its sender is told."""
        return self.outcome is not None or self.refusal is not None


class Expected:
    """An object of which all has come, until it joins a group or is refused. A context."""

    def __init__(self, groups: "Groups") -> None:
        self._groups = groups
        self._is_over = False

    def __enter__(self) -> "Expected":
        with self._groups.lock:
            self._groups.expected += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._groups.lock:
            self.end()

    def end(self) -> None:
        """It is here, or will not come; within the lock."""
        if not self._is_over:
            self._is_over = True
            self._groups.expected -= 1
            if not self._groups.expected:
                self._groups.all_here.notify_all()


class Groups:
    """The queue of those who wait, and who leads; any number of threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.all_here = threading.Condition(self.lock)
        self.expected = 0
        self._waiting: list[Waiting] = []
        self._has_leader = False

    @property
    def is_alone(self) -> bool:
        """Nobody but the one that asks, if it is expected, is on the way to a commit; a glance without the lock."""
        return self.expected <= 1 and not self._has_leader

    def join(self, item: Waiting, expected: Expected | None) -> bool:
        """Wait until the item is answered, or its thread is to lead the next group, which holds it: True."""
        with self.lock:
            self._waiting.append(item)
            leads = not self._has_leader
            self._has_leader = True
            if expected is not None:
                expected.end()
        if leads:
            return True
        item.gate.acquire()
        return not item.is_answered

    def take(self) -> list[Waiting]:
        """All who wait, and those who will in a moment; for the leader."""
        with self.lock:
            if self.expected:
                self.all_here.wait_for(lambda: not self.expected, GATHER_SECONDS)
            group, self._waiting = self._waiting, []
        return group

    def hand_on(self) -> None:
        """Let the first that waits lead the next group."""
        with self.lock:
            self._has_leader = bool(self._waiting)
            following = self._waiting[0] if self._waiting else None
        if following is not None:
            following.gate.release()
