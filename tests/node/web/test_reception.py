"""A request that ends while a thread still takes its bytes."""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import Engine, func, select

from node.errors import Refused
from node.logs import get_logger
from node.receive.intake import Intake
from node.receive.multipart import MultipartParser
from node.store import tables
from node.store.database import read_transaction
from node.store.files import FileStore
from node.store.temporary import TemporaryFile
from node.web.reception import Reception
from tests.node.receive.objects import SENDER, begin, in_session, taking
from tests.node.receive.wire import encode
from tests.node.web.conftest import compose, part10
from tests.phantoms import make_series

PATIENCE = 90


class SlowFiles(FileStore):
    """Waits before it makes a temporary file."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.is_asked = threading.Event()
        self.may_go_on = threading.Event()

    def new_temporary(self, head: bytes = b"") -> TemporaryFile:
        self.is_asked.set()
        assert self.may_go_on.wait(PATIENCE)
        return super().new_temporary(head)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SlowFiles]:
    with in_session(SlowFiles(tmp_path / "data")) as files:
        yield files


@pytest.fixture
def intake(engine: Engine, files: SlowFiles) -> Iterator[Intake]:
    with taking(engine, files) as intake:
        yield intake


def request(intake: Intake, writers: Executor, images: list[Dataset]) -> tuple[Reception, bytes]:
    """A STOW-RS request with these images, and its content."""
    content, content_type = compose(part10(image) for image in images)
    boundary = content_type.partition('boundary="')[2].rstrip('"')
    reception = Reception(
        intake,
        SENDER,
        MultipartParser(boundary, 10),
        writers,
        maximum_object_bytes=1_000_000,
        study_instance_uid="",
        log=get_logger("web"),
    )
    return reception, content


def stored(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(tables.instance)) or 0


def test_object_that_was_forgotten_is_never_stored(
    engine: Engine, files: SlowFiles, intake: Intake, images: list[Dataset]
) -> None:
    files.may_go_on.set()
    incoming = begin(intake, encode(images[0]))
    incoming.discard()
    with pytest.raises(Refused):
        incoming.complete()
    assert stored(engine) == 0


def test_ending_a_request_waits_for_the_thread_that_takes_its_bytes(
    engine: Engine, files: SlowFiles, intake: Intake, tmp_path: Path
) -> None:
    images = make_series(shape=(1, 256, 256), modality="CT")
    with ThreadPoolExecutor(1) as writers, ThreadPoolExecutor(2) as readers:
        reception, content = request(intake, writers, images)
        feeding = readers.submit(reception.feed, content[:100_000])
        assert files.is_asked.wait(PATIENCE)
        ending = readers.submit(reception.abandon)
        wait([ending], timeout=0.2)  # time for it to end too soon
        files.may_go_on.set()
        feeding.result(PATIENCE)
        assert ending.result(PATIENCE) == []
    assert stored(engine) == 0
    assert list((tmp_path / "data" / "incoming").rglob("*.part")) == []


class BrokenFiles(FileStore):
    """Has a fault of ours."""

    def place(self, temporary: Path, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
        raise RuntimeError("a fault")


def test_fault_of_ours_costs_one_object_and_leaves_nothing(
    engine: Engine, images: list[Dataset], tmp_path: Path
) -> None:
    with (
        in_session(BrokenFiles(tmp_path / "data")) as files,
        taking(engine, files) as intake,
        ThreadPoolExecutor(2) as writers,
    ):
        reception, content = request(intake, writers, images)
        reception.feed(content)
        outcomes = reception.finish()
        assert {outcome.status for outcome in outcomes} <= {0x0110, 0xA700} and len(outcomes) == len(images)
        assert stored(engine) == 0 and list(files.data_dir.rglob("*.part")) == []


class KnownFiles(FileStore):
    """Knows the temporary files that it made."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.made: list[TemporaryFile] = []

    def new_temporary(self, head: bytes = b"") -> TemporaryFile:
        self.made.append(super().new_temporary(head))
        return self.made[-1]


def test_parts_that_wait_for_their_turn_hold_no_memory(engine: Engine, tmp_path: Path) -> None:
    images, may_go_on = make_series(shape=(4, 256, 256), modality="CT"), threading.Event()
    with (
        in_session(KnownFiles(tmp_path / "data")) as files,
        taking(engine, files) as intake,
        ThreadPoolExecutor(1) as writers,
    ):
        before_them = writers.submit(may_go_on.wait, PATIENCE)
        reception, content = request(intake, writers, images)
        reception.feed(content)
        held = [len(file.content) for file in files.made]
        may_go_on.set()
        outcomes = reception.finish()
        assert before_them.result()
    assert held == [0] * len(images)
    assert [outcome.status for outcome in outcomes] == [0] * len(images) and stored(engine) == len(images)
