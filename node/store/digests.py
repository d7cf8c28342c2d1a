"""The digest of a stored data set: whether it is what was received, and whether what comes again is the same.

BLAKE3, which costs a quarter of the processor time of SHA-256 (docs/decisions/0005-one-sync.md).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blake3 import blake3
from sqlalchemy import Engine, Row, select, update

from node.logs import describe_error, get_logger
from node.store.database import read_transaction, write_transaction
from node.store.files import FileStore
from node.store.tables import instance

_READ_BYTES = 1 << 20
_OLD_PREFIX = "sha256:"
_AT_ONCE = 200


def new_digest() -> blake3:
    """A digest of nothing yet: `update` it, then take its `hexdigest`."""
    return blake3()


def file_digest(path: Path) -> str:
    """Of a whole file. Raises `OSError`."""
    digest = new_digest()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file.read):
            digest.update(piece)
    return digest.hexdigest()


def data_set_digest(path: Path, progress: Callable[[], None] = lambda: None) -> str:
    """Of the data set in one of our files: of what comes after the File Meta Information, whose length it says.

    Raises `OSError`, or `ValueError` where the beginning is not as we write it."""
    digest = new_digest()
    for piece in _data_set(path):
        digest.update(piece)
        progress()
    return digest.hexdigest()


def is_old(digest: str) -> bool:
    """Whether a version before BLAKE3 took it."""
    return digest.startswith(_OLD_PREFIX)


def matches(path: Path, digest: str) -> bool:
    """Whether the data set in one of our files has this digest, of either kind. Raises `OSError`."""
    if is_old(digest):
        return _renewed(path, digest) is not None
    try:
        return data_set_digest(path) == digest
    except ValueError:
        return False


def renew_digests(engine: Engine, files: FileStore) -> int:
    """Give objects that a version before BLAKE3 received their new digest; how many.

    Where a file is not what was received its row keeps the old one, until the object comes again: it is not committed
    to, and the log names it (`digest_not_renewed`). Raises `SQLAlchemyError`.
    """
    columns = (instance.c.sop_instance_uid, instance.c.path, instance.c.digest)
    with read_transaction(engine) as connection:
        old = connection.execute(select(*columns).where(instance.c.digest.startswith(_OLD_PREFIX))).all()
    if old:
        get_logger("store").info("renewing_digests", objects=len(old))
    return sum(_renew(engine, files, old[first : first + _AT_ONCE]) for first in range(0, len(old), _AT_ONCE))


def _renew(engine: Engine, files: FileStore, rows: Sequence[Row[str, str, str]]) -> int:
    """In one transaction, begun when all files were read."""
    found: list[tuple[Row[str, str, str], str]] = []
    for row in rows:
        reason = "the file is not what was received"
        try:
            digest = _renewed(files.absolute(row.path), row.digest)
        except OSError as error:
            digest, reason = None, describe_error(error)
        if digest is None:
            get_logger("store").error("digest_not_renewed", sop_instance_uid=row.sop_instance_uid, reason=reason)
            continue
        found.append((row, digest))
    renewed = 0
    with write_transaction(engine) as connection:
        for row, digest in found:
            mine = (instance.c.sop_instance_uid == row.sop_instance_uid, instance.c.digest == row.digest)
            renewed += connection.execute(update(instance).where(*mine).values(digest=digest)).rowcount
    return renewed


def _renewed(path: Path, old: str) -> str | None:
    """The digest of the data set; None where its old one is wrong. Raises `OSError`."""
    before, digest = hashlib.sha256(), new_digest()
    try:
        for piece in _data_set(path):
            before.update(piece)
            digest.update(piece)
    except ValueError:
        return None
    return digest.hexdigest() if _OLD_PREFIX + before.hexdigest() == old else None


def _data_set(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        head = file.read(144)
        if len(head) < 144 or head[128:132] != b"DICM" or head[132:140] != b"\x02\0\0\0UL\x04\0":
            raise ValueError("no File Meta Information")
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        yield from _pieces(file.read)


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(_READ_BYTES):
        yield piece
