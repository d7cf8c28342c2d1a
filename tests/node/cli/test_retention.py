"""`overread retention`, and what `overread explain` and `simulate` say of a study whose images were deleted."""

import json
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from node.cli import build_app
from node.store.database import open_database, write_transaction
from node.store.tables import SeriesState, series
from tests.node.cli.examples import IMAGES, database_url, store_study, write_node_folder

CONFIG = """\
[models]
paths = ["models"]
[[routes]]
name = "mr"
match = { modality = ["MR"] }
models = ["ball"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder with the model `ball`, a settled study of today, and one of three weeks ago."""
    write_node_folder(tmp_path, CONFIG)
    for study, days_ago in (("1.2", 0), ("1.3", 21)):
        paths = [f"instances/ab/{study}.1/{number}.dcm" for number in range(IMAGES)]
        for image in store_study(tmp_path, study, days_ago, path=paths):
            (tmp_path / "data" / image.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / image.path).write_bytes(b"image")
    engine = open_database(database_url(tmp_path))
    with write_transaction(engine) as connection:
        connection.execute(update(series).values(state=SeriesState.SETTLED))
    engine.dispose()
    return tmp_path


def run(folder: Path, command: str, *arguments: str) -> Result:
    config = ("--running", str(folder / "node.toml")) if command == "simulate" else ()
    return CliRunner().invoke(
        build_app([command]),
        [command, *arguments, "--config", str(folder / "node.toml"), *config],
        catch_exceptions=False,
    )


def files(folder: Path) -> int:
    return len(list((folder / "data" / "instances").rglob("*.dcm")))


def test_a_dry_run_says_what_is_due_and_deletes_nothing(folder: Path) -> None:
    shown = run(folder, "retention", "--dry-run").stdout
    assert "due 1.3: 4 images" in shown
    assert "1.2" not in shown
    assert "would delete 4 images" in shown
    assert files(folder) == 8


def test_what_is_due_is_deleted_and_explained(folder: Path) -> None:
    answer = json.loads(run(folder, "retention", "--json").stdout)
    assert [each["study_instance_uid"] for each in answer["due"]] == ["1.3"]
    assert answer["deleted"]["images"] == 4
    assert files(folder) == 4
    shown = run(folder, "explain", "1.3").stdout
    assert "1 series, 0 images" in shown
    assert "4 images were deleted by" in shown
    assert "of 1 more the images were deleted" in run(folder, "simulate", "--since", "30d").stdout
    assert "deleted 0 images" in run(folder, "retention").stdout
