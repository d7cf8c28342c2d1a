"""Objects given to reception without a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Engine

from node.receive.command import Command, CommandField
from node.receive.committer import Committer
from node.receive.intake import IncomingObject, Intake, Sender
from node.store.files import FileStore
from tests.node.receive.wire import Encoded

SENDER = Sender("SENDER", "NODE")

_Files = TypeVar("_Files", bound=FileStore)


@contextmanager
def in_session(files: _Files) -> Iterator[_Files]:
    """A store with a folder for temporary files, which is given back."""
    files.open_session()
    try:
        yield files
    finally:
        files.close_session()


@contextmanager
def taking(
    engine: Engine, files: FileStore, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[Intake]:
    """Reception into a store, with `durability = "group"`."""
    committer = Committer(engine, files, lambda: None, durability="group", quiet_seconds=30, now=now)
    try:
        yield Intake(files, committer, free_disk_bytes=0)
    finally:
        committer.close()


def begin(intake: Intake, image: Encoded, *, piece: int = 1 << 30) -> IncomingObject:
    """An object of which all has come, in pieces of so many bytes, and is in its file."""
    command = Command(CommandField.C_STORE_RQ, 1, image.sop_class, image.sop_instance, has_data_set=True)
    incoming = intake.begin_object(command, image.transfer_syntax, SENDER)
    view = memoryview(image.data_set)
    for start in range(0, len(view), piece):
        incoming.add(view[start : start + piece])
        if start % (8 * piece) == 0 and start:
            incoming.flush()
    incoming.flush()
    return incoming
