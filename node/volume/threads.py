"""One thing done for each of many images, by several threads: reading and decoding let the interpreter go."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

T = TypeVar("T")


def reading_threads() -> int:
    """Threads that read plain images: the kernel copies while the interpreter is let go."""
    return min(4, os.cpu_count() or 1)


def for_each(do: Callable[[int], T], total: int, threads: int = 1, at_once: int = 1) -> list[T]:
    """`do` of 0 to `total`, in the order of the numbers.

    Parameters
    ----------
    do : callable
        Called from `threads` threads.
    at_once : int
        Neighbours that a thread takes at once: two threads that fill one page of memory wait for each other.

    Raises
    ------
    Exception
        The first by number of those that `do` raised; what is not begun by then is left.
    """
    results: dict[int, T] = {}
    raised: dict[int, BaseException] = {}
    blocks, lock = count(), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                first = next(blocks) * at_once
            if first >= total:
                return
            for number in range(first, min(total, first + at_once)):
                if raised:
                    return
                try:
                    results[number] = do(number)
                except BaseException as error:
                    raised[number] = error
                    return

    workers = min(threads, -(-total // at_once))
    if workers < 2:
        work()
    else:
        with ThreadPoolExecutor(workers) as pool:
            for _ in range(workers):
                pool.submit(work)
    if raised:
        try:
            raise raised[min(raised)]
        finally:
            raised.clear()  # else error and frame keep each other, and what was being filled, for a while
    return [results[number] for number in range(total)]
