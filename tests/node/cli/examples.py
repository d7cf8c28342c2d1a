"""A node's folder as commands find it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from node.store.catalogue import ReceivedInstance, store_instances
from node.store.database import migrate, open_database, write_transaction
from tests.models import threshold_network, write_model
from tests.node.store.examples import received

IMAGES = 4


def write_node_folder(folder: Path, configuration: str) -> None:
    """The model `ball`, a configuration, and a database at the newest schema."""
    write_model(folder / "models" / "ball", "ball", threshold_network())
    (folder / "node.toml").write_text(configuration, encoding="utf-8")
    migrate(database_url(folder), None)


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'data' / 'overread.sqlite'}"


def store_study(folder: Path, study: str, days_ago: float, **columns: Sequence[Any]) -> list[ReceivedInstance]:
    """An MR study of one series with `IMAGES` images; `columns` gives a value for each image."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    images = [
        received(
            number,
            series=f"{study}.1",
            study=study,
            received_at=at,
            series_header={"Modality": "MR", "SeriesDescription": "T1 head"},
            **{name: values[number] for name, values in columns.items()},
        )
        for number in range(IMAGES)
    ]
    engine = open_database(database_url(folder))
    with write_transaction(engine) as connection:
        store_instances(connection, images, at)
    engine.dispose()
    return images
