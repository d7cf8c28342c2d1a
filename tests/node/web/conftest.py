import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmwrite
from sqlalchemy import Engine, select

from node.settings import DimseSettings, NodeSettings, Settings, SettleSettings
from node.store import tables
from node.store.database import migrate, open_database, read_transaction
from node.store.files import FileStore
from node.web.server import WebServer
from node.web_settings import WebSettings
from tests.node.receive.wire import read_encoded
from tests.phantoms import make_series


@dataclass
class WebUnderTest:
    """A running HTTP server with its database and files."""

    server: WebServer
    engine: Engine
    data_dir: Path
    notified: threading.Event

    @property
    def port(self) -> int:
        return self.server.bound_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rows(self, table: Any = tables.instance) -> list[Any]:
        with read_transaction(self.engine) as connection:
            return list(connection.execute(select(table)).all())

    def stored(self) -> dict[str, bytes]:
        """The data set of each object, by SOP Instance UID, as it is in its file."""
        return {row.sop_instance_uid: read_encoded(self.data_dir / row.path).data_set for row in self.rows()}

    def temporary_files(self) -> list[Path]:
        return list((self.data_dir / "incoming").rglob("*.part"))

    def post(self, files: Iterable[bytes], path: str = "/studies", **headers: str) -> httpx.Response:
        """Send DICOM files in one request."""
        content, content_type = compose(files)
        sent = {"Content-Type": content_type, "Accept": "application/dicom+json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.post(self.url + path, content=content, headers=sent)


def compose(files: Iterable[bytes], part_type: str = "application/dicom") -> tuple[bytes, str]:
    """Body and Content-Type of a STOW-RS request."""
    boundary = uuid.uuid4().hex
    parts = [f"--{boundary}\r\nContent-Type: {part_type}\r\n\r\n".encode() + file + b"\r\n" for file in files]
    content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), content_type


def part10(image: Dataset) -> bytes:
    """A DICOM file in memory."""
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def failures(answer: httpx.Response) -> Mapping[str, int]:
    """Failure Reason by SOP Instance UID, of a Store Instances Response Module."""
    items = answer.json().get("00081198", {}).get("Value", [])
    return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in items}


def successes(answer: httpx.Response) -> set[str]:
    items = answer.json().get("00081199", {}).get("Value", [])
    return {item["00081155"]["Value"][0] for item in items}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., WebUnderTest]]:
    """Start an HTTP server; keyword arguments are `[web]` settings, `dimse` those of `[dimse]`. It is stopped after the
    test."""
    started: list[WebUnderTest] = []

    def start(data_dir: Path = tmp_path / "data", dimse: Mapping[str, Any] | None = None, **web: Any) -> WebUnderTest:
        settings = Settings(
            node=NodeSettings(data_dir=data_dir),
            dimse=DimseSettings(**{"free_disk_mb": 0, **(dimse or {})}),
            web=WebSettings(**{"enabled": True, "port": 0, "stop_seconds": 1, "allow_anonymous": True, **web}),
            settle=SettleSettings(quiet_seconds=30, released_quiet_seconds=2),
        )
        migrate(settings.database_url, None)
        engine = open_database(settings.database_url)
        notified = threading.Event()
        server = WebServer(settings, engine, FileStore(data_dir), notified.set)
        server.start()
        started.append(WebUnderTest(server, engine, data_dir, notified))
        return started[-1]

    yield start
    for each in started:
        each.server.stop()
        each.engine.dispose()


@pytest.fixture
def images() -> list[Dataset]:
    """Four small CT images of one series."""
    return make_series(shape=(4, 16, 16), modality="CT")
