"""The digest of a stored data set: whether it is what was received, and whether what comes again is the same.

BLAKE3, which costs a quarter of the processor time of SHA-256 (docs/decisions/0005-one-sync.md).
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

_READ_BYTES = 1 << 20
_OLD_PREFIX = "sha256:"


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


def is_old(digest: str) -> bool:
    """Whether it is a SHA-256: of an object that a version before BLAKE3 received. It stays as long as the object."""
    return digest.startswith(_OLD_PREFIX)


def unmarked(digest: str) -> str:
    """As the version that took it wrote it: names that were derived from it then are so now."""
    return digest.removeprefix(_OLD_PREFIX)


def matches(path: Path, digest: str, progress: Callable[[], None] = lambda: None) -> bool:
    """Whether a digest is that of the data set in one of our files: of what comes after the File Meta Information,
    whose length that says. `progress` is called again and again.

    Raises `OSError`, or `ValueError` where the beginning is not as we write it."""
    taken = hashlib.sha256() if is_old(digest) else new_digest()
    for piece in _data_set(path):
        taken.update(piece)
        progress()
    return taken.hexdigest() == unmarked(digest)


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
