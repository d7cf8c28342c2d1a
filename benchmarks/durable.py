"""Ways to make one received object and its row durable, beside each other: milliseconds and CPU for each.

    python benchmarks/durable.py [--folder .] [--rounds 8]

Each way writes a new file of 0.53 MB, links it to its final name, and appends 25 KB to a log of rows that was
allocated before, as SQLite's is; between them lies as much computing as reception does there (digest, header,
statements). Ways take turns in one run. Linux, as root or not; `--folder` says which file system.
"""

import argparse
import ctypes
import fcntl
import itertools
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from node.store.native import BackgroundWriter

CONTENT = os.urandom(530_742)
FRAMES = os.urandom(4120)
LOG_BYTES = 4_000_000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def compute(milliseconds: float) -> None:
    end = time.perf_counter() + milliseconds / 1000
    while time.perf_counter() < end:
        pass


class Disk:
    """The steps that the ways are made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._file_system = os.open(folder, os.O_RDONLY)
        self._log = os.open(folder / "log", os.O_RDWR | os.O_CREAT)
        os.pwrite(self._log, bytes(LOG_BYTES), 0)
        self._journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self._aligned = mmap.mmap(-1, (len(CONTENT) + 4095) // 4096 * 4096)
        self._aligned[: len(CONTENT)] = CONTENT
        for at in range(0, 64 << 20, len(self._aligned)):
            os.pwrite(self._journal, self._aligned, at)
        self._at = 0
        self.sync_all()

    def write(
        self, *, begin: bool = False, past_cache: bool = False, meanwhile: BackgroundWriter | None = None
    ) -> None:
        """A file under a temporary name, computing, its final name. `begin`: the disk begins at once with what is in
        the system's cache. `meanwhile`: past that cache while we compute, for which the file has its length first."""
        number = next(self._numbers)
        temporary, final = self._folder / f"{number}.part", self._folder / f"{number}.dcm"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        content, whole = memoryview(self._aligned)[: len(CONTENT)], 0
        if past_cache or meanwhile:
            whole = len(CONTENT) // 4096 * 4096
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
        if meanwhile:
            os.ftruncate(descriptor, len(CONTENT))
            meanwhile.begin(descriptor, content[:whole])
            compute(0.5)
            if meanwhile.wait() != whole:
                raise OSError("the disk took a part only")
        elif whole:
            os.pwrite(descriptor, content[:whole], 0)
        if whole:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        os.pwrite(descriptor, content[whole:], whole)
        if begin:
            LIBC.sync_file_range(descriptor, 0, 0, 2)
        os.close(descriptor)
        if not meanwhile:
            compute(0.5)
        os.link(temporary, final)
        temporary.unlink()

    def write_row(self) -> None:
        compute(0.3)
        for number in range(6):
            os.pwrite(self._log, FRAMES, number * len(FRAMES))

    def sync_all(self) -> None:
        LIBC.syncfs(self._file_system)

    def sync_log(self) -> None:
        os.fdatasync(self._log)

    def append(self) -> None:
        """Object and row at the end of one file whose blocks are there, past the system's cache."""
        self._at = (self._at + len(self._aligned)) % (60 << 20) // 4096 * 4096
        os.pwrite(self._journal, self._aligned, self._at)
        compute(0.8)
        os.fdatasync(self._journal)


def ways(disk: Disk) -> dict[str, Callable[[], None]]:
    def file_then_row(*, begin: bool) -> None:
        disk.write(begin=begin)
        disk.sync_all()
        disk.write_row()
        disk.sync_log()

    def together(*, begin: bool, past_cache: bool = False, meanwhile: BackgroundWriter | None = None) -> None:
        disk.write(begin=begin, past_cache=past_cache, meanwhile=meanwhile)
        disk.write_row()
        disk.sync_all()

    found = {
        "computing alone": lambda: compute(0.8),
        "file, then row": lambda: file_then_row(begin=False),
        "the same, begun early": lambda: file_then_row(begin=True),
        "one sync for both": lambda: together(begin=False),
        "one sync, begun early": lambda: together(begin=True),
        "one sync, past the page cache (the node)": lambda: together(begin=True, past_cache=True),
        "one journal for both, no files": disk.append,
    }
    try:
        writer = BackgroundWriter()
    except OSError as error:
        print(f"nothing is written in the background here: {error}")
    else:
        found["past it, while it computes (the node, alone)"] = lambda: together(begin=True, meanwhile=writer)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durable-", dir=options.folder) as name:
        disk = Disk(Path(name))
        table = ways(disk)
        seconds: dict[str, list[float]] = {way: [] for way in table}
        cpu: dict[str, list[float]] = {way: [] for way in table}
        for _ in range(options.rounds):
            for way, run in table.items():
                for _ in range(15):
                    began, used = time.perf_counter(), time.process_time()
                    run()
                    seconds[way].append(time.perf_counter() - began)
                    cpu[way].append(time.process_time() - used)
                disk.sync_all()
    idle, first = (statistics.median(seconds[way]) for way in list(table)[:2])
    for way in table:
        middle = statistics.median(seconds[way])
        print(
            f"{way:44} {1000 * middle:7.2f} ms  CPU {1000 * statistics.median(cpu[way]):5.2f} ms"
            f"  waiting and system {(middle - idle) / (first - idle):5.2f}x"
        )


if __name__ == "__main__":
    main()
