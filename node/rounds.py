"""Work that comes in rounds: do what is due, then wait until there may be more."""

import threading
from collections.abc import Callable
from datetime import datetime


class Rounds:
    """Step after step until `stop`; `run` is for a thread of its own.

    Parameters
    ----------
    step : callable
        Does what is due and says after how many seconds there may be more. Once `is_stopping`, it may raise whatever
        it likes.
    failed : callable
        Told what a step raised: the database is away, say. The rounds outlive it.
    pause_seconds : float
        The wait after a step that failed.
    """

    def __init__(self, step: Callable[[], float], failed: Callable[[Exception], None], pause_seconds: float) -> None:
        self._step = step
        self._failed = failed
        self._pause_seconds = pause_seconds
        self._woken = threading.Event()
        self._stopping = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def run(self) -> None:
        """Work until `stop`."""
        while not self.is_stopping:
            try:
                wait_seconds = self._step()
            except Exception as error:
                if self.is_stopping:
                    return
                self._failed(error)
                wait_seconds = self._pause_seconds
            self._woken.wait(wait_seconds)
            self._woken.clear()  # before `is_stopping` is asked, so that no call of `stop` is overlooked

    def wake(self) -> None:
        """There may be something to do now. Safe from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """Begin no other step. Safe from any thread."""
        self._stopping.set()
        self._woken.set()


def seconds_until(moment: datetime | None, now: datetime, longest: float) -> float:
    """The wait for what is due at a moment, or at none that is known: at least 20 ms, at most `longest`."""
    return longest if moment is None else min(max((moment - now).total_seconds(), 0.02), longest)
