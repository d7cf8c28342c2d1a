"""Digests that are taken beside their caller."""

import hashlib
import threading

from node.store.beside import DigestThread

PIECES = [memoryview(bytes([number]) * 100_000) for number in range(5)]
EXPECTED = hashlib.sha256(b"".join(PIECES)).hexdigest()


def test_digest_is_whole_once_it_was_waited_for() -> None:
    thread = DigestThread()
    for _ in range(20):
        digest = hashlib.sha256()
        thread.begin(digest, PIECES[:2])()
        thread.begin(digest, PIECES[2:])()
        assert digest.hexdigest() == EXPECTED
    thread.close()


class Held:
    """A digest that is not done before it may be."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def update(self, piece: memoryview, /) -> None:
        self.has_begun.set()
        assert self.may_end.wait(30)


def test_who_finds_the_thread_at_work_does_not_wait_for_it() -> None:
    thread, held, digest = DigestThread(), Held(), hashlib.sha256()
    wait = thread.begin(held, PIECES[:1])
    assert held.has_begun.wait(30)
    thread.begin(digest, PIECES)()
    assert digest.hexdigest() == EXPECTED
    held.may_end.set()
    wait()
    thread.close()


def test_close_before_the_first_and_a_second_use_after_it() -> None:
    thread, digest = DigestThread(), hashlib.sha256()
    thread.close()
    thread.begin(digest, PIECES)()
    thread.close()
    assert digest.hexdigest() == EXPECTED
