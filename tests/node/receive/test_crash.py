"""What was acknowledged is there: after `kill -9`, after a power cut, and when the disk was full.

`OVERREAD_KILLS` sets how many kills are made (30, or 1000 with `OVERREAD_SOAK`). Power cut and full disk need a
loop-mounted file system, and so root; elsewhere they are left out.
"""

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3
from sqlalchemy import select

from node.store import tables
from node.store.database import open_database, read_transaction
from node.store.files import FileStore
from node.store.sync_point import drop_lost_objects
from tests.counterparts import free_port, wait_until
from tests.mounts import make_image, mounted
from tests.node.receive.receiver_process import Receivers
from tests.node.receive.wire import CT, EXPLICIT, Client, Encoded, encode
from tests.phantoms import make_series

KILLS = int(os.environ.get("OVERREAD_KILLS") or ("1000" if os.environ.get("OVERREAD_SOAK") else "30"))


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    receivers = Receivers()
    yield receivers
    receivers.close()


@dataclass
class Sending:
    """Associations that send until the receiver is gone; `acknowledged` maps SOP Instance UID to digest."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, port: int, batches: list[list[Encoded]]) -> None:
        self.threads = [threading.Thread(target=self._send, args=(port, batch)) for batch in batches]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def _send(self, port: int, batch: list[Encoded]) -> None:
        with suppress(OSError, AssertionError), Client(port) as client:
            client.associate([(1, CT, [EXPLICIT])])
            for image in batch:
                if client.store(image) == 0:
                    self.acknowledged[image.sop_instance] = blake3(image.data_set).hexdigest()


def make_batches(associations: int, objects: int, side: int = 48) -> list[list[Encoded]]:
    """Images for so many associations, each of a series of its own."""
    return [
        [encode(image) for image in make_series(shape=(objects, side, side), modality="CT")]
        for _ in range(associations)
    ]


def renew(batches: list[list[Encoded]], chance: random.Random) -> list[list[Encoded]]:
    """The same images under other SOP Instance UIDs."""
    renewed: list[list[Encoded]] = []
    for batch in batches:
        renewed.append([])
        for image in batch:
            uid = "2.25." + "".join(chance.choices("123456789", k=len(image.sop_instance) - 5))
            data_set = image.data_set.replace(image.sop_instance.encode(), uid.encode())
            renewed[-1].append(replace(image, sop_instance=uid, data_set=data_set))
    return renewed


def stored(data_dir: Path) -> dict[str, tuple[str, Path]]:
    """Digest and file of each row, as another process finds them."""
    engine = open_database(f"sqlite:///{data_dir / 'overread.sqlite'}")
    try:
        with read_transaction(engine) as connection:
            instance = tables.instance.c
            rows = connection.execute(select(instance.sop_instance_uid, instance.digest, instance.path)).all()
    finally:
        engine.dispose()
    return {row.sop_instance_uid: (row.digest, data_dir / row.path) for row in rows}


def digest(path: Path) -> str:
    """Digest of the data set in a file: what comes after the File Meta Information."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM", f"{path.name} is torn"
    start = 144 + int.from_bytes(content[140:144], "little")
    return blake3(content[start:]).hexdigest()


def check(data_dir: Path, acknowledged: dict[str, str]) -> None:
    """Everything acknowledged is in a row and in a file with its digest."""
    found = stored(data_dir)
    for uid, expected in acknowledged.items():
        assert uid in found, "an acknowledged object has no row"
        row_digest, path = found[uid]
        assert row_digest == expected
        assert digest(path) == expected, "an acknowledged object has another content"


def check_after_cut(data_dir: Path, acknowledged: dict[str, str]) -> None:
    """What was acknowledged is there; and after the next start, as `node.service.prepare` makes it, nothing is known
    that is not there."""
    check(data_dir, acknowledged)
    engine = open_database(f"sqlite:///{data_dir / 'overread.sqlite'}")
    files = FileStore(data_dir)
    try:
        drop_lost_objects(engine, files, lambda: datetime.now(UTC))
    finally:
        files.close_session()  # or its descriptor keeps the file system mounted
        engine.dispose()
    check(data_dir, acknowledged)
    for row_digest, path in stored(data_dir).values():
        assert digest(path) == row_digest, "an object is known and its file is not whole"


def test_kill_while_sending_loses_nothing_acknowledged(tmp_path: Path, receivers: Receivers) -> None:
    data_dir = tmp_path / "data"
    chance = random.Random(20)
    acknowledged: dict[str, str] = {}
    batches = make_batches(7, 20) + make_batches(1, 8, side=600)
    for number in range(KILLS):
        pid, port = receivers.start(data_dir)
        assert number == 0 or len(list((data_dir / "incoming").iterdir())) <= 1, "temporary files were not swept"
        sending = Sending()
        sending.begin(port, renew(batches, chance))
        if number % 2:  # the others are killed whenever that is: on a slow machine before anything is acknowledged
            wait_until(lambda sending=sending: sending.acknowledged, "first answer")
        time.sleep(chance.uniform(0.02, 0.3))
        receivers.kill(pid)
        sending.join()
        acknowledged |= sending.acknowledged
        check(data_dir, sending.acknowledged)
    assert acknowledged, "nothing was acknowledged before the kills"
    check(data_dir, acknowledged)
    for path in (data_dir / "instances").rglob("*.dcm"):  # those without a row too: no torn file has a final name
        assert digest(path).startswith(path.stem.split("-")[1])


# Small file systems -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["group", "object"])
def test_power_cut_loses_nothing_acknowledged(tmp_path: Path, receivers: Receivers, durability: str) -> None:
    """The image as it is at the kill is what a disk would hold: data that was not synced is not in it."""
    image = make_image(tmp_path / "disk.img", 96)
    with mounted(image, tmp_path / "mounted"):
        data_dir = tmp_path / "mounted" / "data"
        pid, port = receivers.start(data_dir, durability=durability)
        sending = Sending()
        sending.begin(port, make_batches(4, 25))
        wait_until(lambda: len(sending.acknowledged) >= 20, "acknowledged objects")
        receivers.kill(pid)
        shutil.copyfile(image, tmp_path / "cut.img")
        sending.join()
    assert sending.acknowledged
    with mounted(tmp_path / "cut.img", tmp_path / "after"):
        check_after_cut(tmp_path / "after" / "data", sending.acknowledged)


def test_disk_that_fails_loses_nothing_acknowledged(tmp_path: Path, receivers: Receivers) -> None:
    """Under the file system is less room than it believes, as with a thin volume: what it writes fails, some time after
    it was taken. Then the volume grows, and the machine stops."""
    with mounted("tmpfs", tmp_path / "volume", "-t", "tmpfs", "-o", "size=16m") as volume:
        image = make_image(volume / "disk.img", 96)
        with mounted(image, tmp_path / "mounted"):
            data_dir = tmp_path / "mounted" / "data"
            pid, port = receivers.start(data_dir)
            (batch,) = make_batches(1, 40, side=512)
            statuses: list[int] = []
            acknowledged: dict[str, str] = {}
            with Client(port, timeout=40) as client:
                client.associate([(1, CT, [EXPLICIT])])
                for number, one in enumerate(batch):
                    if number == 32:
                        subprocess.run(["mount", "-o", "remount,size=400m", volume], check=True)
                    statuses.append(client.store(one))
                    if statuses[-1] == 0:
                        acknowledged[one.sop_instance] = blake3(one.data_set).hexdigest()
            receivers.kill(pid)
            shutil.copyfile(image, tmp_path / "cut.img")
        assert acknowledged and set(statuses) == {0, 0xA700}
    with mounted(tmp_path / "cut.img", tmp_path / "after"):
        check_after_cut(tmp_path / "after" / "data", acknowledged)


def test_full_disk_is_a700_and_recovers(tmp_path: Path, receivers: Receivers) -> None:
    image = make_image(tmp_path / "disk.img", 24)
    with mounted(image, tmp_path / "mounted"):
        data_dir = tmp_path / "mounted" / "data"
        pid, port = receivers.start(data_dir)
        ballast = tmp_path / "mounted" / "ballast"
        fill(ballast, leave_bytes=600_000)
        (batch,) = make_batches(1, 30, side=200)
        acknowledged: dict[str, str] = {}
        with Client(port, timeout=40) as client:
            client.associate([(1, CT, [EXPLICIT])])
            statuses = [client.store(one) for one in batch]
            assert set(statuses) == {0, 0xA700}
            ballast.unlink()
            for one, before in zip(batch, statuses, strict=True):
                if before:
                    assert client.store(one) == 0
            acknowledged = {one.sop_instance: blake3(one.data_set).hexdigest() for one in batch}
        check(data_dir, acknowledged)
        assert len(stored(data_dir)) == len(batch)
        receivers.kill(pid)


def fill(path: Path, leave_bytes: int) -> None:
    """Take all room but `leave_bytes`."""
    free = shutil.disk_usage(path.parent).free
    with path.open("wb") as file, suppress(OSError):
        for _ in range((free - leave_bytes) // 65536):
            file.write(bytes(65536))


def test_port_is_free_again_after_a_kill(tmp_path: Path, receivers: Receivers) -> None:
    pid, port = receivers.start(tmp_path / "data", port=free_port())
    with Client(port) as client:
        client.associate([(1, CT, [EXPLICIT])])
        receivers.kill(pid)
        assert client.is_closed_within(60)
    _, again = receivers.start(tmp_path / "data", port=port)
    assert again == port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_listeners_share_a_port_and_one_may_die(tmp_path: Path, receivers: Receivers) -> None:
    first, port = receivers.start(tmp_path / "data", processes=2)
    _, other = receivers.start(tmp_path / "data", processes=2, port=port)
    assert other == port
    (batch,) = make_batches(1, 24, side=8)
    half = len(batch) // 2

    def store(images: list[Encoded]) -> list[int]:
        statuses = []
        for image in images:
            with Client(port) as client:
                client.associate([(1, CT, [EXPLICIT])])
                statuses.append(client.store(image))
                client.release()
        return statuses

    assert store(batch[:half]) == [0] * half
    receivers.kill(first)
    assert store(batch[half:]) == [0] * half
    assert len(stored(tmp_path / "data")) == len(batch)
