import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from node.receive.storage_scp import StorageScp
from node.settings import DimseSettings, NodeSettings, Settings, SettleSettings
from node.store import tables
from node.store.database import migrate, open_database, read_transaction
from node.store.files import FileStore
from tests.node.receive.wire import CT, EXPLICIT, IMPLICIT, MR, VERIFICATION, Client, Encoded, encode
from tests.phantoms import make_series


@dataclass
class Receiver:
    """A running Storage SCP with its database and files."""

    scp: StorageScp
    engine: Engine
    data_dir: Path
    notified: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return self.scp.bound_port

    def rows(self, table: Any = tables.instance) -> list[Any]:
        with read_transaction(self.engine) as connection:
            return list(connection.execute(select(table)).all())

    def count(self) -> int:
        with read_transaction(self.engine) as connection:
            return int(connection.scalar(select(func.count()).select_from(tables.instance)) or 0)

    def associated(self, **options: Any) -> Client:
        """A client with contexts 1 (CT), 3 (MR, both syntaxes in turn) and 5 (Verification)."""
        client = Client(self.port)
        contexts = [(1, CT, [EXPLICIT]), (3, MR, [EXPLICIT, IMPLICIT]), (5, VERIFICATION, [IMPLICIT])]
        client.associate(contexts, **options)
        return client

    def temporary_files(self) -> list[Path]:
        return list((self.data_dir / "incoming").rglob("*.part"))

    def placed_files(self) -> list[Path]:
        return [path for path in (self.data_dir / "instances").rglob("*") if path.is_file()]


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Start a receiver; keyword arguments are `[dimse]` settings. It is stopped after the test."""
    started: list[Receiver] = []

    def start(data_dir: Path = tmp_path / "data", **dimse: Any) -> Receiver:
        settings = Settings(
            node=NodeSettings(data_dir=data_dir),
            dimse=DimseSettings(**{"host": "127.0.0.1", "port": 0, "free_disk_mb": 0, "stop_seconds": 1.0, **dimse}),
            settle=SettleSettings(quiet_seconds=30, released_quiet_seconds=2),
        )
        migrate(settings.database_url, None)
        engine = open_database(settings.database_url)
        notified = threading.Event()
        scp = StorageScp(settings, engine, FileStore(data_dir), notified.set)
        scp.start()
        receiver = Receiver(scp, engine, data_dir, notified)
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.scp.stop()
        receiver.engine.dispose()


@pytest.fixture
def images() -> list[Encoded]:
    """Four small CT images of one series."""
    return [encode(image) for image in make_series(shape=(4, 16, 16), modality="CT")]
