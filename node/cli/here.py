"""Which processes of a node run on this machine, found without disturbing them."""

from dataclasses import dataclass
from pathlib import Path

from node.jobs.wake import Topic, Wake
from node.settings import Settings

_LISTENING = "0A"
"""State of a socket in the kernel's tables (TCP_LISTEN)."""


@dataclass(frozen=True)
class Here:
    """What runs on this machine: whether anything listens on the port, and who waits for work.

    `listening` is None where the system does not tell.
    """

    port: int
    listening: bool | None
    working: bool
    delivering: bool

    def describe(self) -> str:
        """One line for people."""
        parts = {"analysing": self.working, "delivering": self.delivering}
        port = f"receiving on port {self.port}"
        running = [*([port] if self.listening else []), *(name for name, runs in parts.items() if runs)]
        missing = [*([port] if self.listening is False else []), *(name for name, runs in parts.items() if not runs)]
        if not running:
            return "Nothing of the node runs on this machine: start it with `overread run`, or look where it runs"
        return f"On this machine: {', '.join(running)}" + (f"; not {', '.join(missing)}" if missing else "")


def look_here(settings: Settings, tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> Here:
    """What runs now. `tables` are those of the kernel that list sockets."""
    wake = Wake(settings.wake_folder)
    port = settings.dimse.port
    return Here(port, _listens(port, tables), wake.is_heard(Topic.INFER), wake.is_heard(Topic.DELIVER))


def _listens(port: int, tables: tuple[Path, ...]) -> bool | None:
    """Whether a socket listens on a TCP port; None where the system chose the port, or no table can be read."""
    found: bool | None = None
    if not port:
        return None
    for table in tables:
        try:
            rows = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        sockets = [row.split() for row in rows]
        found = bool(found) or any(each[3] == _LISTENING and each[1].endswith(f":{port:04X}") for each in sockets)
    return found
