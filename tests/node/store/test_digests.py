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
from node.store.digests import data_set_digest, renew_digests
from node.store.files import FileStore
from tests.node.store.examples import NOW

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
        for name, written in (("whole", b"whole"), ("damaged", b"other"), ("gone", None)):
            path = f"instances/{name}.dcm"
            if written is not None:
                files.absolute(path).write_bytes(META + written)
            values = {"uid": name, "path": path, "digest": hashlib.sha256(name.encode()).hexdigest(), "at": at}
            insert = "INSERT INTO instance VALUES (:uid, '1.2.3', '1.2', '1.2', :path, 9, :digest, :at, NULL, 1, 2)"
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


def test_files_that_are_what_was_received_get_the_new_digest(
    settings: Settings, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    files = FileStore(settings.node.data_dir)
    whole = data_set_digest(files.absolute("instances/whole.dcm"))
    others = {name: "sha256:" + hashlib.sha256(name.encode()).hexdigest() for name in ("damaged", "gone")}
    assert digests(engine) == {"whole": whole, **others}
    assert renew_digests(engine, files) == 0
    shown = capsys.readouterr().out
    assert shown.count("digest_not_renewed") == 2 and "'the file is not what was received'" in shown
