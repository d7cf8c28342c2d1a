"""Small file systems for tests that need a disk of their own: they want root, and are left out elsewhere."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.counterparts import leave_out

_UNMOUNT_SECONDS = 30


@contextmanager
def mounted(source: Path | str, at: Path, *options: str) -> Iterator[Path]:
    """Mount something at a folder, which is made; options as for mount(8), by default those of an image in a file."""
    at.mkdir(exist_ok=True)
    command = ["mount", *(options or ("-o", "loop")), source, at]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        leave_out(f"{source} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        _unmount(at)


def _unmount(at: Path) -> None:
    """A process that was killed may hold the file system for a moment; whoever holds it longer has left a file open."""
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while (done := subprocess.run(["umount", at], capture_output=True, text=True, check=False)).returncode != 0:
        if time.monotonic() > deadline:
            subprocess.run(["umount", "-l", at], capture_output=True, check=False)
            pytest.fail(f"{at} cannot be unmounted: {done.stderr.strip()}")
        time.sleep(0.05)


def make_image(path: Path, megabytes: int) -> Path:
    """An empty ext4 file system in a file, which takes the room that is used of it.

    Its blocks are of 4 KB, as those of disks are. By default a small one has blocks of 1 KB, of which SQLite reserves
    one for each page of memory that it shares between processes, so that a full disk ends the process."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        leave_out("a loop-mounted file system needs root and mkfs.ext4")
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", path], check=True, capture_output=True)
    return path
