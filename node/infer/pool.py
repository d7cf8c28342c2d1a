"""Warm sessions of all models in one process, within a budget of memory.

What a model takes is measured, not declared: the memory, of the process and on its GPU, that was taken since the model
was opened, looked at between jobs, when nothing else is held. Over the budget the models that were not used for longest
are closed.
"""

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node.infer.providers import Acceleration
from node.infer.remote import RemoteEngine, RemoteSession
from node.infer.session import Session
from node.logs import get_logger

Sessions = Mapping[str, Session | RemoteSession]
"""The sessions of a model by ONNX file."""


@dataclass(frozen=True)
class Key:
    """Which sessions: of a model, on a device, with so many threads; `acceleration` where it is not the pool's."""

    model: str
    device: str
    threads: int
    acceleration: Acceleration | None = None


@dataclass(eq=False)
class SessionPool:
    """The warm sessions; safe for several threads.

    Parameters
    ----------
    budget_bytes : int
        For all sessions together; 0 is no limit. The model in use is never closed, however large.
    engines : mapping of (str, str) to RemoteEngine
        Networks that run on another machine, by model and ONNX file; an empty file means any.
    acceleration : Acceleration
        What networks may run on here.
    resident : callable
        Memory in use in bytes, None where it cannot be told: that of this process, and of its GPU.
    """

    budget_bytes: int = 0
    engines: Mapping[tuple[str, str], RemoteEngine] = field(default_factory=dict)
    acceleration: Acceleration = field(default_factory=Acceleration)
    resident: Callable[[], int | None] = lambda: resident_bytes()
    _open: dict[Key, Sessions] = field(default_factory=dict, init=False)
    _sizes: dict[Key, int] = field(default_factory=dict, init=False)
    _last: Key | None = field(default=None, init=False)
    _mark: int | None = field(default=None, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def engine(self, model: str, file: str) -> RemoteEngine | None:
        """Where a network runs, if not here."""
        return self.engines.get((model, file)) or self.engines.get((model, ""))

    def sessions(self, key: Key, open_sessions: Callable[[], Sessions]) -> Sessions:
        """The warm sessions, opened if they are not."""
        with self._lock:
            if key not in self._open:
                self._open[key] = open_sessions()
            self._open[key] = self._open.pop(key)  # the last is the one used last
            self._last = key
            return self._open[key]

    def rest(self) -> None:
        """Measure and close what is over the budget: to be called between jobs, when no images are held."""
        with self._lock:
            now = self.resident()
            if now is None or not self.budget_bytes:
                return
            if self._mark is not None and self._last in self._open:
                assert self._last is not None
                self._sizes[self._last] = max(0, self._sizes.get(self._last, 0) + now - self._mark)
            over = sum(self._sizes.values()) - self.budget_bytes
            for key in list(self._open)[:-1]:
                if over > 0:
                    over -= self._sizes.get(key, 0)
                    self._close(key)
            self._mark = self.resident()

    def close(self, key: Key | None = None) -> int:
        """Close these sessions, or all; how many there were. What is closed is opened again when it is next used."""
        with self._lock:
            chosen = [each for each in self._open if key in (None, each)]
            for each in chosen:
                self._close(each)
            return len(chosen)

    def providers(self, key: Key) -> tuple[str, ...]:
        """What open sessions run on; nothing where they are not open."""
        with self._lock:
            return tuple(dict.fromkeys(session.provider for session in self._open.get(key, {}).values()))

    @property
    def open_models(self) -> tuple[str, ...]:
        """Models with warm sessions, the one used last at the end."""
        return tuple(key.model for key in self._open)

    def _close(self, key: Key) -> None:
        sessions = self._open.pop(key)
        close_sessions(sessions)
        get_logger("infer").info("model_closed", model=key.model, bytes=self._sizes.pop(key, None))
        del sessions
        give_back_memory()


def close_sessions(sessions: Sessions) -> None:
    """End the connections to servers; what runs here goes with its last reference."""
    for session in sessions.values():
        if isinstance(session, RemoteSession):
            session.close()


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes(number: int) -> int:
    """Memory in use on a GPU of NVIDIA, by whomever; 0 where there is none or its driver's library is not installed."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number)).used)
    except Exception:  # no package, no driver, no such device
        return 0


def used_bytes(gpu: int) -> int | None:
    """What a worker watches: its own resident memory and its GPU's."""
    resident = resident_bytes()
    return None if resident is None else resident + gpu_bytes(gpu)


def keep_large_arrays_apart() -> None:
    """Let the C library map every array of a megabyte or more on its own: freed, it goes back to the system at once.

    For the whole process. Otherwise holes stay behind between blocks of scores: some 300 MB for 104 classes.
    """
    if sys.platform == "linux":
        change = getattr(ctypes.CDLL(None), "mallopt", None)
        if change is not None:
            change(_MMAP_THRESHOLD, 1 << 20)


_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""


def give_back_memory() -> None:
    """Return freed memory to the system, as far as the C library can."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
