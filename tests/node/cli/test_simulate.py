"""`overread simulate`: new rules over what was received, against those of the running node."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from node.cli import build_app
from node.cli.shared import parse_span
from tests.node.cli.examples import IMAGES, store_study, write_node_folder

ROUTE = '[[routes]]\nname = "{name}"\nmatch = {{ {match} }}\nmodels = ["ball"]\npriority = "{priority}"\n'
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder with the model `ball`, an MR study of today, and another of three weeks ago."""
    write_node_folder(tmp_path, rules("mr", 'modality = ["MR"]'))
    places = [[0.0, 0.0, float(number)] for number in range(IMAGES)]
    plane = {"Rows": 8, "Columns": 8, "ImageOrientationPatient": AXIAL}
    for study, days_ago in (("1.2", 0), ("1.3", 21)):
        store_study(tmp_path, study, days_ago, geometry=[{**plane, "ImagePositionPatient": place} for place in places])
    return tmp_path


def rules(name: str, match: str, priority: str = "routine") -> str:
    return '[models]\npaths = ["models"]\n' + ROUTE.format(name=name, match=match, priority=priority)


def write_config(path: Path, name: str, match: str, priority: str = "routine") -> Path:
    path.write_text(rules(name, match, priority), encoding="utf-8")
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
