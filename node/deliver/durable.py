"""Files and folders that appear whole and durable, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `folder` at the end of the block, when its files are on disk.

    Several may do the same at once, also for one name. What an error leaves half written is removed; the folders above
    are made. Raises `OSError`, also where `folder` has come to be there meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    staging.mkdir()
    try:
        yield staging
        for path in (*staging.iterdir(), staging):
            _sync(path)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """A file with this content, in a folder that is there."""
    staging = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        staging.write_bytes(content)
        _sync(staging)
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with suppress(OSError):  # network file systems may know no such thing: they keep names at once
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
