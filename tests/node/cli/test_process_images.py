"""`overread process` on images without a place in space: four views, chosen by view and laterality."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from pydicom import dcmread
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation
from typer.testing import CliRunner

from node.cli import build_app
from tests.models import graph, write_task_model
from tests.node.volume.images import write_image

VIEWS = (("L", "CC", 0), ("R", "CC", 1), ("L", "MLO", 2), ("R", "MLO", 3))
STUDY = "1.2.826.0.1.3680043.8.498.11"
TABLES = """
[preprocessing]
dimensions = 2
size = [24, 16]
fit = "pad"

[[outputs]]
task = "grading"
name = "Breast density"
finding = { value = "129715009", meaning = "Breast composition" }
concept = { value = "129715009", meaning = "Breast composition" }
finding_site = { value = "76752008", meaning = "Breast" }
"""
GRADE = """
[[outputs.grades]]
name = "{name}"
channel = {channel}
value = {{ value = "{code}", meaning = "{meaning}" }}
"""
GRADES = (("129716005", "Almost entirely fat"), ("129719003", "Extremely dense"))


def tables() -> str:
    inputs = "".join(
        f'[[inputs]]\nname = "{side.lower()}-{view.lower()}"\n'
        '[inputs.requires]\nmodality = ["MG"]\nminimum_slices = 1\n'
        f'view_position = ["{view}"]\nimage_laterality = ["{side}"]\n'
        for side, view, _ in VIEWS
    )
    grades = "".join(
        GRADE.format(name="AD"[place], channel=place, code=code, meaning=meaning)
        for place, (code, meaning) in enumerate(GRADES)
    )
    return inputs + TABLES + grades


def write_views(folder: Path) -> None:
    folder.mkdir()
    for side, view, place in reversed(VIEWS):
        pixels = np.full((48, 32), 100 * (place + 1), np.uint16)
        write_image(
            folder / f"{side}{view}.dcm",
            pixels,
            SOPClassUID=DigitalMammographyXRayImageStorageForPresentation,
            Modality="MG",
            StudyInstanceUID=STUDY,
            ImageLaterality=side,
            ViewPosition=view,
            PresentationIntentType="FOR PRESENTATION",
            ImageType=["ORIGINAL", "PRIMARY"],
            SeriesNumber=place + 1,
            InstanceNumber=1,
            PatientBirthDate="19700102",
            PatientSex="F",
            StudyDate="20240305",
            StudyTime="101112",
            StudyID="1",
            AccessionNumber="A1",
            ReferringPhysicianName="",
        )


def test_four_views_of_a_mammogram_by_a_model_folder_without_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network gives what the last channel (R MLO, 400) has over the first (L CC, 100): 0.001 and 0.3."""
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["most", "weights"], ["probability"]),
    ]
    weights = np.array([[1e-5, -1e-3], [0, 0], [0, 0], [0, 1e-3]], np.float32)
    network = graph(nodes, {"image": 4}, {"probability": 2}, {"weights": weights})
    write_task_model(tmp_path / "density", tables(), {"model.onnx": network})
    write_views(tmp_path / "exam")
    arguments = ["process", "exam", "--model", "density/", "--out", "out", "--json"]
    ended = CliRunner().invoke(build_app(arguments), arguments)
    assert ended.exit_code == 0, ended.output
    (result,) = json.loads(ended.stdout)["results"]
    (finding,) = result["findings"]
    assert finding["site"] == "Breast" and "laterality" not in finding
    assert finding["answers"] == ["Extremely dense"] and abs(finding["likelihood"] - 0.3) < 1e-5
    report = dcmread(Path(result["folder"]) / result["objects"][-1]["file_name"])
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(evidence) == 4
    assert (Path(result["folder"]) / "preview.png").is_file()
