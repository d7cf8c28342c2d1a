"""`overread simulate`: new rules over what was received, against those of the running node."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from node.cli import build_app
from node.cli.simulate import parse_span
from node.store.catalogue import store_instances
from node.store.database import migrate, open_database, write_transaction
from tests.models import threshold_network, write_model
from tests.node.store.examples import received

ROUTE = '[[routes]]\nname = "{name}"\nmatch = {{ {match} }}\nmodels = ["ball"]\npriority = "{priority}"\n'
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder with the model `ball`, an MR study of today, and another of three weeks ago."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    write_config(tmp_path / "node.toml", "mr", 'modality = ["MR"]')
    url = f"sqlite:///{tmp_path / 'data' / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    now = datetime.now(UTC)
    with write_transaction(engine) as connection:
        for study, at in (("1.2", now), ("1.3", now - timedelta(days=21))):
            images = [
                received(
                    number,
                    series=f"{study}.1",
                    study=study,
                    received_at=at,
                    series_header={"Modality": "MR", "SeriesDescription": "T1 head"},
                    geometry={
                        "Rows": 8,
                        "Columns": 8,
                        "ImageOrientationPatient": AXIAL,
                        "ImagePositionPatient": [0.0, 0.0, float(number)],
                    },
                )
                for number in range(4)
            ]
            store_instances(connection, images, at)
    engine.dispose()
    return tmp_path


def write_config(path: Path, name: str, match: str, priority: str = "routine") -> Path:
    path.write_text(
        '[models]\npaths = ["models"]\n' + ROUTE.format(name=name, match=match, priority=priority), encoding="utf-8"
    )
    return path


def simulate(folder: Path, new: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        build_app(["simulate"]),
        ["simulate", "--config", str(new), "--running", str(folder / "node.toml"), *arguments],
        catch_exceptions=False,
    )


def test_same_work_by_another_route_changes_nothing(folder: Path) -> None:
    new = write_config(folder / "new.toml", "head", 'series_description = "head"')
    assert "1 studies" in simulate(folder, new).stdout
    assert "1 as before, 0 would change" in simulate(folder, new).stdout
    assert "2 as before" in simulate(folder, new, "--since", "30d").stdout


def test_what_would_change_is_printed(folder: Path) -> None:
    new = write_config(folder / "new.toml", "ct", 'modality = ["CT"]')
    shown = simulate(folder, new).stdout
    assert "study 1.2" in shown
    assert "model ball: chosen (4 images for image), routine, by mr  ->  not wanted" in shown
    assert "0 as before, 1 would change" in shown


def test_priority_and_destinations_are_changes_too(folder: Path) -> None:
    new = write_config(folder / "new.toml", "mr", 'modality = ["MR"]', "stat")
    answer = json.loads(simulate(folder, new, "--json").stdout)
    assert (answer["studies"], answer["unchanged"]) == (1, 0)
    (change,) = answer["changes"][0]["changes"]
    assert (change["before"]["priority"], change["after"]["priority"]) == ("routine", "stat")
    assert change["before"]["input_digest"] == change["after"]["input_digest"]


def test_a_route_that_is_not_possible_is_compared_by_its_reason(folder: Path) -> None:
    text = (folder / "node.toml").read_text()
    new = folder / "new.toml"
    new.write_text(text.replace('"ball"', '"other"'))
    answer = json.loads(simulate(folder, new, "--json").stdout)
    changes = {each["model"]: each for each in answer["changes"][0]["changes"]}
    assert changes["ball"]["after"] is None
    assert changes["other"]["after"]["code"] == "model-unavailable"


@pytest.mark.parametrize(
    ("text", "span"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("30m", timedelta(minutes=30))]
)
def test_spans(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


def test_wrong_span_is_a_usage_error(folder: Path) -> None:
    result = simulate(folder, folder / "node.toml", "--since", "lately")
    assert result.exit_code == 2
