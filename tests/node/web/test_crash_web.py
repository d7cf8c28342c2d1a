"""`kill -9` while objects arrive by STOW-RS: what was answered with success is there.

`OVERREAD_KILLS` sets how many kills are made (5, or 300 with `OVERREAD_SOAK`).
"""

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset

from tests.counterparts import wait_until
from tests.node.receive.test_crash import check, digest
from tests.node.web.conftest import compose, part10, successes
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
        with suppress(httpx.TransportError), httpx.Client(trust_env=False, timeout=20) as client:
            while True:
                files = [self.renewed(part10(image), str(image.SOPInstanceUID)) for image in self.images]
                content, content_type = compose(files)
                headers = {"Content-Type": content_type}
                answer = client.post(f"http://127.0.0.1:{port}/studies", content=content, headers=headers)
                assert answer.status_code == 200
                stored = successes(answer)
                assert len(stored) == 3
                for file in files:
                    uid = next(uid for uid in stored if uid.encode() in file)
                    start = 144 + int.from_bytes(file[140:144], "little")
                    self.acknowledged[uid] = hashlib.sha256(file[start:]).hexdigest()

    def renewed(self, file: bytes, uid: str) -> bytes:
        other = "2.25." + "".join(self.chance.choices("123456789", k=len(uid) - 5))
        return file.replace(uid.encode(), other.encode())


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
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    check(data_dir, uploads.acknowledged)
    for path in (data_dir / "instances").rglob("*.dcm"):  # those without a row too: no torn file has a final name
        assert digest(path).startswith(path.stem.split("-")[1])
