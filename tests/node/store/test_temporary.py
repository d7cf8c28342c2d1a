import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from blake3 import blake3

from node.store import native, temporary
from node.store.native import BackgroundWriter
from node.store.temporary import BLOCK_BYTES, STAGE_BYTES, Stages, TemporaryFile
from tests.counterparts import leave_out

LIBRARY = ctypes.CDLL(None, use_errno=True)


def content_of(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def make(path: Path, stages: Stages, *, past_cache: bool = True, head: bytes = b"head") -> TemporaryFile:
    return TemporaryFile(str(path), head, stages, past_cache=past_cache)


def written(path: Path, content: bytes, *, past_cache: bool = True) -> TemporaryFile:
    file = make(path, Stages(), past_cache=past_cache)
    file.write(memoryview(content))
    file.finish()
    file.close()
    return file


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cached_pages(path: Path) -> list[bool]:
    """Of each page of a file, whether the page cache has it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
        assert LIBRARY.mincore(address, ctypes.c_size_t(len(mapped)), pages) == 0
        return [bool(page & 1) for page in pages]


def bypasses_the_cache(path: Path) -> bool:
    """Whether the file system does what it is asked to."""
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
            os.write(descriptor, block)
        except OSError:
            return False
    os.close(descriptor)
    return not any(cached_pages(path))


@pytest.mark.parametrize("past_cache", [True, False])
@pytest.mark.parametrize("piece", [1000, BLOCK_BYTES, STAGE_BYTES + 7])
@pytest.mark.parametrize(
    "size", [0, 1, BLOCK_BYTES - 4, BLOCK_BYTES, STAGE_BYTES - 5, STAGE_BYTES - 4, STAGE_BYTES, 3 * STAGE_BYTES + 1]
)
def test_file_is_what_was_written(tmp_path: Path, size: int, piece: int, past_cache: bool) -> None:
    content = memoryview(content_of(size))
    file = make(tmp_path / "one", Stages(), past_cache=past_cache)
    for start in range(0, size, piece):
        file.write(content[start : start + piece])
    file.finish()
    assert os.pread(file.descriptor, 8, 0) == b"head" + content[:4], "the descriptor reads what was written"
    file.close()
    assert (tmp_path / "one").read_bytes() == b"head" + content
    assert file.digest.hexdigest() == blake3(content).hexdigest()


@pytest.fixture
def direct_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files can be written past the page cache."""
    with TemporaryDirectory(dir=Path(__file__).parent) as beside:  # where temporary files lie in memory alone
        folders = [folder for folder in (tmp_path, Path(beside)) if bypasses_the_cache(folder / "probe")]
        if not folders:
            leave_out("no file system here writes past the page cache")
        (folders[0] / "probe").unlink()
        yield folders[0]


@pytest.fixture
def background_folder(direct_folder: Path) -> Path:
    """A folder whose files can be written in the background too."""
    try:
        BackgroundWriter()
    except OSError as error:
        leave_out(f"nothing is written in the background here: {error}")
    return direct_folder


def test_whole_blocks_are_not_in_the_page_cache(direct_folder: Path) -> None:
    for name, is_past_cache in (("cached", False), ("direct", True)):
        written(direct_folder / name, content_of(2 * STAGE_BYTES + 100), past_cache=is_past_cache)
    assert all(cached_pages(direct_folder / "cached"))
    direct = cached_pages(direct_folder / "direct")
    assert not any(direct[:-1]) and direct[-1], "only the end, which fills no block, goes through the cache"


def test_file_system_without_direct_writes_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(temporary.fcntl, "fcntl", refuse)
    written(tmp_path / "one", content_of(10_000))
    assert (tmp_path / "one").read_bytes() == b"head" + content_of(10_000)


def test_direct_write_that_is_refused_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, []

    def refuse_the_second(descriptor: int, content: Any) -> int:
        calls.append(len(memoryview(content)))
        if len(calls) == 1:
            return write(descriptor, memoryview(content)[:BLOCK_BYTES])  # a part only
        if len(calls) == 2:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", refuse_the_second)
    written(tmp_path / "one", content_of(5 * BLOCK_BYTES))
    assert calls == [5 * BLOCK_BYTES, 4 * BLOCK_BYTES, 4 * BLOCK_BYTES, 4]
    assert (tmp_path / "one").read_bytes() == b"head" + content_of(5 * BLOCK_BYTES)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_failing_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    stages = Stages()
    file = make(tmp_path / "one", stages)
    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        file.write(memoryview(content_of(STAGE_BYTES)))
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_written_beside_each_other_do_not_mix(tmp_path: Path) -> None:
    stages = Stages()
    files = [make(tmp_path / str(number), stages, head=bytes([number])) for number in range(3)]
    for _ in range(3):
        for number, file in enumerate(files):
            file.write(memoryview(bytes([number]) * 5000))
    for file in files:
        file.finish()
        file.close()
    assert [set((tmp_path / str(number)).read_bytes()) for number in range(3)] == [{0}, {1}, {2}]


def test_memory_is_used_again(tmp_path: Path) -> None:
    stages = Stages()
    for number in range(3):
        file = make(tmp_path / str(number), stages)
        file.finish()
        file.close()
        file.close()
    make(tmp_path / "discarded", stages).remove()
    assert len(stages._idle) == 1
    first, second = stages.borrow().memory, stages.borrow().memory
    assert len(first) == len(second) == STAGE_BYTES
    first[0], second[0] = 1, 2
    assert first[0] == 1, "nobody is lent what another has"


def test_memory_that_is_kept_is_bounded(tmp_path: Path) -> None:
    stages = Stages()
    for stage in [stages.borrow() for _ in range(temporary._IDLE_STAGES + 3)]:
        stages.give_back(stage)
    assert len(stages._idle) == temporary._IDLE_STAGES


def test_no_file_is_left_where_there_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(size: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = open_descriptors()
    monkeypatch.setattr(temporary, "_fresh", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        make(tmp_path / "one", Stages())
    assert list(tmp_path.iterdir()) == [] and open_descriptors() == before


def test_descriptor_whose_closing_failed_is_not_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number belongs to another file by then."""
    close, closed = os.close, []

    def fail(descriptor: int) -> None:
        close(descriptor)
        closed.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = make(tmp_path / "one", Stages())
    number = file.descriptor
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", fail)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.close()
        other = make(tmp_path / "other", Stages())
        assert other.descriptor == number
        file.remove()
        assert closed == [number]
    other.write(memoryview(b"others"))
    other.finish()
    other.close()
    assert (tmp_path / "other").read_bytes() == b"headothers" and not (tmp_path / "one").exists()


def test_file_is_removed_although_closing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    close, file = os.close, make(tmp_path / "one", Stages())
    monkeypatch.setattr(os, "close", fail)
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_again_goes_through_the_cache_where_it_is_long(tmp_path: Path) -> None:
    for name, size in (("short", 100_000), ("long", 3 * STAGE_BYTES)):
        file = make(tmp_path / name, Stages())
        file.keep_in_cache()
        file.write(memoryview(content_of(size)))
        assert file.is_in_memory == (name == "short")
        if file.is_in_memory:
            assert file.content == b"head" + content_of(size)
        file.finish()
        file.close()
        if name == "long":
            assert all(cached_pages(tmp_path / name))
        assert (tmp_path / name).read_bytes() == b"head" + content_of(size)


BEGUN_SIZES = [0, 100, BLOCK_BYTES - 4, BLOCK_BYTES, 10 * BLOCK_BYTES + 7, STAGE_BYTES - 4, 2 * STAGE_BYTES + 5]


@pytest.mark.parametrize("past_cache", [True, False])
@pytest.mark.parametrize("size", BEGUN_SIZES)
def test_file_that_is_begun_while_it_is_read_is_what_was_written(tmp_path: Path, size: int, past_cache: bool) -> None:
    stages = Stages()
    for name in ("one", "other"):
        content = content_of(size)[::-1] if name == "other" else content_of(size)
        file = make(tmp_path / name, stages, past_cache=past_cache)
        file.write(memoryview(content))
        file.begin()
        if file.is_in_memory:
            assert file.content == b"head" + content
        file.finish()
        file.close()
        is_whole = (tmp_path / name).read_bytes() == b"head" + content  # what differs is of no interest, and long
        assert is_whole
        assert file.digest.hexdigest() == blake3(content).hexdigest()


def begun(path: Path, stages: Stages, size: int = 20 * BLOCK_BYTES) -> TemporaryFile:
    file = make(path, stages)
    file.write(memoryview(content_of(size)))
    file.begin()
    return file


def test_what_is_begun_is_written_past_the_cache_in_the_background(background_folder: Path) -> None:
    file = begun(background_folder / "one", Stages())
    assert file._begun == 20 * BLOCK_BYTES, "nothing was begun"
    file.finish()
    file.close()
    pages = cached_pages(background_folder / "one")
    assert not any(pages[:-1]) and pages[-1]


@pytest.mark.parametrize("outcome", [errno.EINVAL, 3 * BLOCK_BYTES + 100])
def test_what_the_background_leaves_is_written_afterwards(
    background_folder: Path, monkeypatch: pytest.MonkeyPatch, outcome: int
) -> None:
    real, path, waited = BackgroundWriter.wait, background_folder / "one", []

    def wait(writer: BackgroundWriter) -> int:
        waited.append(real(writer))
        path.write_bytes(bytes(path.stat().st_size))  # as if nothing had come of it
        if outcome == errno.EINVAL:
            raise OSError(outcome, os.strerror(outcome))
        with path.open("r+b") as file:
            file.write((b"head" + content_of(outcome))[:outcome])
        return outcome

    monkeypatch.setattr(BackgroundWriter, "wait", wait)
    file = begun(path, Stages())
    file.finish()
    file.close()
    is_whole = path.read_bytes() == b"head" + content_of(20 * BLOCK_BYTES)
    assert is_whole and waited == [20 * BLOCK_BYTES]


def test_disk_that_fails_in_the_background_is_told(background_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stages = BackgroundWriter.wait, Stages()

    def wait(writer: BackgroundWriter) -> int:
        real(writer)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(BackgroundWriter, "wait", wait)
    file = begun(background_folder / "one", stages)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.finish()
    file.remove()
    assert list(background_folder.iterdir()) == [] and len(stages._idle) == 1


def test_memory_is_not_given_back_while_it_is_written_from(
    background_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stages, waited = BackgroundWriter.wait, Stages(), []

    def wait(writer: BackgroundWriter) -> int:
        waited.append(len(stages._idle))
        return real(writer)

    monkeypatch.setattr(BackgroundWriter, "wait", wait)
    begun(background_folder / "one", stages).remove()
    begun(background_folder / "other", stages).close()
    assert waited == [0, 0] and len(stages._idle) == 1


def test_system_without_background_writes_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    for method in ("__init__", "begin"):
        with monkeypatch.context() as patched:
            patched.setattr(BackgroundWriter, method, fail)
            file = begun(tmp_path / method, Stages())
            file.finish()
            file.close()
            assert (tmp_path / method).read_bytes() == b"head" + content_of(20 * BLOCK_BYTES)


def watch_system_calls(monkeypatch: pytest.MonkeyPatch, results: dict[int, list[int]]) -> list[int]:
    """The numbers of those that background writers make from now on; what the first calls of some return is given."""
    find, made = native._find, []

    def find_and_watch(name: str) -> Any:
        real = find(name)

        def call(number: ctypes.c_long, *arguments: Any) -> int:
            made.append(number.value)
            planned = results.get(number.value)
            return planned.pop(0) if planned else real(number, *arguments)

        return call

    monkeypatch.setattr(native, "_find", find_and_watch)
    return made


def test_background_writers_are_given_back(background_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watch_system_calls(monkeypatch, {})
    setup, destroy, *_ = native._AIO_CALLS[platform.machine()]
    stages = Stages()
    borrowed = [stages.borrow() for _ in range(temporary._IDLE_STAGES + 1)]
    assert not made, "nothing was to be written in the background"
    begun(background_folder / "one", stages).remove()
    assert (made.count(setup), made.count(destroy)) == (1, 0)
    while borrowed:
        stages.give_back(borrowed.pop())
    begun(background_folder / "one", stages).remove()
    assert (made.count(setup), made.count(destroy)) == (2, 0)
    del stages
    assert made.count(destroy) == 2


def test_write_that_the_system_did_not_take_was_not_begun(
    background_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, submit = native._AIO_CALLS[platform.machine()]
    made = watch_system_calls(monkeypatch, {submit: [0]})
    file = begun(background_folder / "one", Stages())
    assert made[-1] == submit and file._begun == 0
    file.finish()
    file.close()
    assert (background_folder / "one").read_bytes() == b"head" + content_of(20 * BLOCK_BYTES)


def test_wait_that_ends_without_an_outcome_goes_on(background_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, get_events, _ = native._AIO_CALLS[platform.machine()]
    made = watch_system_calls(monkeypatch, {get_events: [0, 0]})
    file = begun(background_folder / "one", Stages())
    file.finish()
    file.close()
    assert made.count(get_events) == 3
    assert (background_folder / "one").read_bytes() == b"head" + content_of(20 * BLOCK_BYTES)


def test_background_write_of_unknown_outcome_is_waited_for_and_told(
    background_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be under way: the memory must not be lent to the next file before it is over."""
    _, destroy, get_events, submit = native._AIO_CALLS[platform.machine()]
    made = watch_system_calls(monkeypatch, {get_events: [-1]})
    stages = Stages()
    file = begun(background_folder / "one", stages)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        file.finish()
    assert made[-3:] == [submit, get_events, destroy] and not stages._idle
    file.remove()
    successor = BackgroundWriter()  # which may be given the number of the one that went
    other = begun(background_folder / "other", stages)
    assert other._begun == 0 and successor._context
    other.finish()
    other.close()
    assert (background_folder / "other").read_bytes() == b"head" + content_of(20 * BLOCK_BYTES)
    assert made.count(destroy) == 1


def test_path_that_is_taken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        make(tmp_path / "one", Stages())
    assert (tmp_path / "one").read_bytes() == b"another's"


def test_nothing_is_left_of_what_is_removed(tmp_path: Path) -> None:
    before = open_descriptors()
    file = make(tmp_path / "one", Stages())
    file.write(memoryview(content_of(2 * STAGE_BYTES)))
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == [] and open_descriptors() == before
