"""Objects of a version that took another digest."""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select, text

from node.service import prepare
from node.settings import NodeSettings, Settings
from node.store import tables
from node.store.database import MIGRATIONS, migrate, read_transaction
from node.store.digests import matches
from node.store.files import FileStore
from node.store.sync_point import SyncPoint, drop_lost_objects
from tests.node.store.examples import NOW

NAMES = ("whole", "damaged", "gone")
META = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + (0).to_bytes(4, "little")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node with three objects of the version before: one is whole, one is damaged, the file of one is gone."""
    data_dir = tmp_path / "data"
    settings = Settings(node=NodeSettings(data_dir=data_dir, ae_title="NODE"))
    files = FileStore(data_dir)
    before = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, before)
    for newer in (before / "versions").glob("001*.py"):
        newer.unlink()
    assert migrate(settings.database_url, None, before) == "0009"
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        at = (NOW - timedelta(days=1)).replace(tzinfo=None).isoformat(" ")
        connection.execute(text("INSERT INTO study VALUES ('1', :at, :at, NULL, NULL, NULL)"), {"at": at})
        connection.execute(
            text("INSERT INTO series VALUES ('1.2', '1', 'SETTLED', :at, :at, 'CT', 'NODE', '{}')"), {"at": at}
        )
        for name, written in (("whole", b"whole"), ("damaged", b"changed"), ("gone", None)):
            path = f"instances/{name}.dcm"
            if written is not None:
                files.absolute(path).write_bytes(META + written)
            size = len(META) + len(name)
            values = {
                "uid": name,
                "path": path,
                "size": size,
                "digest": hashlib.sha256(name.encode()).hexdigest(),
                "at": at,
            }
            insert = "INSERT INTO instance VALUES (:uid, '1.2.3', '1.2', '1.2', :path, :size, :digest, :at, NULL, 1, 2)"
            connection.execute(text(insert), values)
    engine.dispose()
    return settings


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = prepare(settings)
    yield engine
    engine.dispose()


def digests(engine: Engine) -> dict[str, str]:
    columns = (tables.instance.c.sop_instance_uid, tables.instance.c.digest)
    with read_transaction(engine) as connection:
        return dict(connection.execute(select(*columns)).all())


def test_objects_of_an_earlier_version_keep_their_digest_and_are_compared_by_it(
    settings: Settings, engine: Engine
) -> None:
    """Nothing is read for an upgrade: a node with a terabyte listens at once."""
    files = FileStore(settings.node.data_dir)
    assert digests(engine) == {name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in NAMES}
    assert matches(files.absolute("instances/whole.dcm"), digests(engine)["whole"])
    assert not matches(files.absolute("instances/damaged.dcm"), digests(engine)["damaged"])


def test_after_an_unclean_end_an_object_of_an_earlier_version_is_dropped_only_where_it_is_not_whole(
    settings: Settings, engine: Engine
) -> None:
    files = FileStore(settings.node.data_dir)
    point = SyncPoint(settings.node.data_dir)
    point.open(NOW - timedelta(days=2))
    point.close()
    assert drop_lost_objects(engine, files, lambda: NOW) == 2
    assert set(digests(engine)) == {"whole"}
    files.close_session()
