"""What was answered with success by STOW-RS is there: after `kill -9`, after a power cut, and when the disk was full.

`OVERREAD_KILLS` sets how many kills are made (5, or 300 with `OVERREAD_SOAK`). Power cut and full disk need a
loop-mounted file system, and so root; elsewhere they are left out.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from blake3 import blake3
from pydicom import Dataset, dcmread

from tests.counterparts import wait_until
from tests.node.receive.test_crash import check, check_after_cut, digest, fill, make_image, mounted, stored
from tests.node.web.conftest import compose, failures, part10, successes
from tests.node.web.web_process import WebProcesses
from tests.phantoms import make_series

KILLS = int(os.environ.get("OVERREAD_KILLS") or ("300" if os.environ.get("OVERREAD_SOAK") else "5"))


@pytest.fixture
def servers() -> Iterator[WebProcesses]:
    servers = WebProcesses()
    yield servers
    servers.close()


@dataclass
class Uploads:
    """Clients that upload until the server is gone; `acknowledged` maps SOP Instance UID to digest."""

    images: list[Dataset]
    chance: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)

    def run(self, port: int) -> None:
        """Request after request, each with three objects under new UIDs."""
        with suppress(httpx.TransportError), httpx.Client(trust_env=False, timeout=60) as client:
            while True:
                files = [self.renewed(part10(image), str(image.SOPInstanceUID)) for image in self.images]
                content, content_type = compose(files)
                headers = {"Content-Type": content_type}
                answer = client.post(f"http://127.0.0.1:{port}/studies", content=content, headers=headers)
                assert answer.status_code == 200
                assert len(successes(answer)) == 3
                self.acknowledged |= dict(map(identity, files))

    def renewed(self, file: bytes, uid: str) -> bytes:
        other = "2.25." + "".join(self.chance.choices("123456789", k=len(uid) - 5))
        return file.replace(uid.encode(), other.encode())


def identity(file: bytes) -> tuple[str, str]:
    """SOP Instance UID and digest of the data set in a DICOM file."""
    start = 144 + int.from_bytes(file[140:144], "little")
    return str(dcmread(BytesIO(file)).SOPInstanceUID), blake3(file[start:]).hexdigest()


def test_kill_while_uploading_loses_nothing_acknowledged(tmp_path: Path, servers: WebProcesses) -> None:
    data_dir = tmp_path / "data"
    chance = random.Random(7)
    uploads = Uploads(make_series(shape=(3, 40, 40), modality="CT"), chance)
    for number in range(KILLS):
        pid, port = servers.start(data_dir)
        assert number == 0 or len(list((data_dir / "incoming").iterdir())) <= 1, "temporary files were not swept"
        threads = [threading.Thread(target=uploads.run, args=(port,)) for _ in range(3)]
        before = len(uploads.acknowledged)
        for thread in threads:
            thread.start()
        wait_until(lambda before=before: len(uploads.acknowledged) > before, "a first answer")
        time.sleep(chance.uniform(0, 0.2))
        servers.kill(pid)
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    check(data_dir, uploads.acknowledged)
    for path in (data_dir / "instances").rglob("*.dcm"):  # those without a row too: no torn file has a final name
        assert digest(path).startswith(path.stem.split("-")[1])


def test_power_cut_loses_nothing_acknowledged(tmp_path: Path, servers: WebProcesses) -> None:
    """The image as it is at the kill is what a disk would hold: data that was not synced is not in it."""
    image = make_image(tmp_path / "disk.img", 96)
    uploads = Uploads(make_series(shape=(3, 40, 40), modality="CT"), random.Random(8))
    with mounted(image, tmp_path / "mounted"):
        pid, port = servers.start(tmp_path / "mounted" / "data")
        threads = [threading.Thread(target=uploads.run, args=(port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(uploads.acknowledged) >= 12, "acknowledged objects")
        servers.kill(pid)
        shutil.copyfile(image, tmp_path / "cut.img")
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    with mounted(tmp_path / "cut.img", tmp_path / "after"):
        check_after_cut(tmp_path / "after" / "data", uploads.acknowledged)


def test_full_disk_is_a700_or_503_and_recovers(tmp_path: Path, servers: WebProcesses) -> None:
    """An object that cannot be written is a failure of its own (A700), a request of which none could be is 503."""
    image = make_image(tmp_path / "disk.img", 24)
    uploads = Uploads(make_series(shape=(3, 200, 200), modality="CT"), random.Random(9))
    with mounted(image, tmp_path / "mounted"):
        data_dir = tmp_path / "mounted" / "data"
        pid, port = servers.start(data_dir)
        ballast = tmp_path / "mounted" / "ballast"
        fill(ballast, leave_bytes=600_000)
        expected: dict[str, str] = {}
        refused = 0
        with httpx.Client(trust_env=False, timeout=60) as client:

            def post(files: list[bytes]) -> httpx.Response:
                content, content_type = compose(files)
                headers = {"Content-Type": content_type}
                return client.post(f"http://127.0.0.1:{port}/studies", content=content, headers=headers)

            for _ in range(12):
                files = [uploads.renewed(part10(image), str(image.SOPInstanceUID)) for image in uploads.images]
                answer = post(files)
                taken = successes(answer) if answer.status_code in (200, 202) else set()
                assert answer.status_code in (200, 202, 503, 507), answer.text
                assert set(failures(answer).values()) <= {0xA700} if answer.status_code == 202 else True
                refused += len(files) - len(taken)
                expected |= {uid: digest for uid, digest in map(identity, files) if uid in taken}
            assert refused and expected, "the disk was never full, or always"
            check(data_dir, expected)
            ballast.unlink()
            answer = post(files)
            assert answer.status_code == 200
            expected |= dict(map(identity, files))
        check(data_dir, expected)
        assert set(stored(data_dir)) == set(expected)
        servers.kill(pid)
