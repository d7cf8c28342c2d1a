"""`overread decide`: what came before its route or a new version of its model is analysed after all."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine
from typer.testing import CliRunner

from node.cli import build_app
from node.infer import Registry
from node.jobs.history import list_jobs
from node.settings import load_settings
from node.settle import Settler
from node.store.database import open_database, read_transaction, write_transaction
from node.store.decisions import decisions_of_study
from node.store.expiry import expired_of_study
from node.store.tables import expired_instance
from tests.node.cli.examples import IMAGES, database_url, store_study, write_node_folder

ROUTE = '[[routes]]\nname = "mr"\nmatch = {{ modality = ["{modality}"] }}\nmodels = ["ball"]\n'
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder whose route wants no MR, and an MR study that came two days ago."""
    write_node_folder(tmp_path, rules("CT"))
    plane = {"Rows": 8, "Columns": 8, "ImageOrientationPatient": AXIAL}
    places = [[0.0, 0.0, float(number)] for number in range(IMAGES)]
    store_study(tmp_path, "1.2", 2, geometry=[{**plane, "ImagePositionPatient": place} for place in places])
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    opened = open_database(database_url(folder))
    yield opened
    opened.dispose()


def rules(modality: str) -> str:
    return '[models]\npaths = ["models"]\n' + ROUTE.format(modality=modality)


def settle(folder: Path, engine: Engine) -> int:
    """What a node that is started now does with studies that are due; the number of jobs made."""
    settings = load_settings(folder / "node.toml")
    manifests = {each.identifier: each.manifest for each in Registry(settings.models.paths).models()}
    settler = Settler(engine, settings, lambda: manifests, folder / "run", lambda: datetime.now(UTC))
    try:
        return settler.settle_due()
    finally:
        settler.stop()


def decide(folder: Path, *arguments: str) -> Result:
    command = ["decide", *arguments, "--config", str(folder / "node.toml")]
    return CliRunner().invoke(build_app(["decide"]), command)


def codes(engine: Engine) -> set[str]:
    with read_transaction(engine) as connection:
        return {each.code for each in decisions_of_study(connection, "1.2")}


@pytest.mark.parametrize("which", [("1.2",), ("--since", "3d")])
def test_study_that_came_before_its_route_is_analysed(folder: Path, engine: Engine, which: tuple[str, ...]) -> None:
    assert settle(folder, engine) == 0
    assert codes(engine) == {"no-series-matches"}
    (folder / "node.toml").write_text(rules("MR"), encoding="utf-8")
    assert settle(folder, engine) == 0, "nothing looks at a study that has settled"
    told = decide(folder, *which)
    assert told.exit_code == 0
    assert "1 of 1 studies are decided on again" in told.stdout
    assert settle(folder, engine) == 1
    assert codes(engine) == {"chosen"}


def test_what_was_done_is_not_done_again_by_the_same_model_and_is_by_another(folder: Path, engine: Engine) -> None:
    (folder / "node.toml").write_text(rules("MR"), encoding="utf-8")
    settle(folder, engine)
    decide(folder, "1.2")
    settle(folder, engine)
    with read_transaction(engine) as connection:
        assert [job.revision for job in list_jobs(connection)] == [1]
    manifest = folder / "models" / "ball" / "model.toml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('version = "1', 'version = "2', 1), encoding="utf-8")
    assert manifest.read_text(encoding="utf-8") != text
    decide(folder, "1.2")
    settle(folder, engine)
    with read_transaction(engine) as connection:
        assert [job.revision for job in list_jobs(connection)] == [2, 1]


def test_study_that_is_arriving_or_gone_or_unknown_is_left_alone(folder: Path, engine: Engine) -> None:
    arriving = decide(folder, "1.2")
    assert arriving.exit_code == 1
    assert "not 1.2: it is arriving" in arriving.stdout
    settle(folder, engine)
    with write_transaction(engine) as connection:
        gone = {"sop_instance_uid": "1.2.9", "series_instance_uid": "1.2.1"}
        connection.execute(expired_instance.insert().values(**gone, expired_at=datetime.now(UTC) - timedelta(days=1)))
    with read_transaction(engine) as connection:
        assert expired_of_study(connection, "1.2").instances == 1
    assert "its images were deleted" in decide(folder, "1.2").stdout
    assert codes(engine) == {"no-series-matches"}
    assert "was not received here" in str(decide(folder, "1.9").exception)
    assert decide(folder).exit_code == 2
