"""One object on its way into a file: what is read of it again, and from where."""

import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from node.errors import Refused
from node.receive import intake as module
from node.receive.intake import Intake
from node.store.files import FileStore
from node.store.temporary import STAGE_BYTES, TemporaryFile
from tests.node.receive.objects import begin, in_session, taking
from tests.node.receive.wire import Encoded


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileStore]:
    with in_session(FileStore(tmp_path / "data")) as files:
        yield files


@pytest.fixture
def intake(engine: Engine, files: FileStore) -> Iterator[Intake]:
    with taking(engine, files) as intake:
        yield intake


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors of files that were mapped."""
    found: list[int] = []
    real = module.mmap.mmap

    def watch(descriptor: int, *arguments: Any, **named: Any) -> Any:
        if descriptor >= 0:
            found.append(descriptor)
        return real(descriptor, *arguments, **named)

    monkeypatch.setattr(module.mmap, "mmap", watch)
    return found


def stored(files: FileStore) -> list[bytes]:
    return [path.read_bytes() for path in (files.data_dir / "instances").rglob("*.dcm")]


def left_over(files: FileStore) -> list[Path]:
    return list((files.data_dir / "incoming").rglob("*.part"))


def test_header_beyond_the_first_fragment_is_read_from_memory(
    intake: Intake, files: FileStore, images: list[Encoded], mapped: list[int]
) -> None:
    incoming = begin(intake, images[0], piece=64)
    incoming.complete()
    assert [content[-len(images[0].data_set) :] for content in stored(files)] == [images[0].data_set]
    assert not mapped, "what is in memory is not read from the disk"
    assert incoming.series_instance_uid


def test_header_of_a_long_object_is_read_from_its_file(
    intake: Intake, files: FileStore, images: list[Encoded], mapped: list[int]
) -> None:
    begin(intake, with_more_pixels(images[0]), piece=64 * 1024 + 2).complete()
    assert not mapped, "its header was in the first fragment"
    begin(intake, with_more_pixels(images[1]), piece=200).complete()
    assert len(mapped) == 1
    assert len(stored(files)) == 2


def test_long_object_that_is_read_again_goes_through_the_cache(
    intake: Intake, images: list[Encoded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, ways = os.write, set[bool]()

    def watch(descriptor: int, content: Any) -> int:
        ways.add(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", watch)
    begin(intake, with_more_pixels(images[0]), piece=64 * 1024 + 2).prepare()
    assert True in ways or not takes_direct_writes(tmp_path / "probe"), "its header was in the first fragment"
    ways.clear()
    begin(intake, with_more_pixels(images[1]), piece=200).prepare()
    assert ways == {False}


def test_long_object_that_the_disk_does_not_give_back_is_refused(
    intake: Intake, files: FileStore, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    incoming = begin(intake, with_more_pixels(images[0]), piece=200)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(Refused) as refused:
        incoming.complete()
    assert refused.value.status == 0xA700
    assert stored(files) == [] and left_over(files) == []


def test_lone_object_is_written_while_its_header_is_read(
    intake: Intake, files: FileStore, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    monkeypatch.setattr(TemporaryFile, "begin", lambda file: begun.append(file.is_in_memory))
    begin(intake, images[0]).complete()
    assert begun == [True]
    with intake.committer.expect(), intake.committer.expect():  # others are at work
        begin(intake, images[1]).complete()
    assert begun == [True] and len(stored(files)) == 2


def test_what_is_prepared_and_given_up_leaves_nothing(intake: Intake, files: FileStore, images: list[Encoded]) -> None:
    incoming = begin(intake, images[0])
    incoming.prepare()
    incoming.prepare()
    assert len(left_over(files)) == 1
    incoming.discard()
    assert left_over(files) == []
    with pytest.raises(Refused):
        incoming.complete()
    assert stored(files) == []


def test_object_that_waits_for_its_commit_holds_no_memory(
    intake: Intake, files: FileStore, images: list[Encoded]
) -> None:
    waiting = []
    for image in images[:3]:
        waiting.append(begin(intake, image))
        waiting[-1].prepare()
    assert len(files._stages._idle) == 1, "each had the memory of the one before"
    for incoming in waiting:
        incoming.complete()
    assert len(stored(files)) == 3


def takes_direct_writes(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    os.close(descriptor)
    return True


def with_more_pixels(image: Encoded) -> Encoded:
    """The same with Pixel Data too long for memory, in Explicit VR Little Endian."""
    start, size = image.data_set.index(b"\xe0\x7f\x10\0OW\0\0"), 2 * STAGE_BYTES
    return replace(image, data_set=image.data_set[: start + 8] + size.to_bytes(4, "little") + bytes(size))
