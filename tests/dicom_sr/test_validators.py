"""What programs made by others say of rendered objects."""

import gzip
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_sr import codes
from dicom_sr.findings import Finding, Measurement
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, ReportClass, Role
from dicom_sr.render import render
from tests.conftest import program
from tests.phantoms import make_series

PROBABILITY = Finding(
    finding=codes.concept("36118008", "SCT", "Pneumothorax"),
    tracking_identifier="Pneumothorax, AI probability",
    measurements=(Measurement(codes.concept("probability", "99OVERREAD", "Probability"), 87.0, codes.PERCENT),),
)
NOISE = (
    "DeviceUID",  # type 3 in PS3.3 Table C.12-1, not yet known to dicom3tools
    "Standard Extended SOP Class",  # said of the same
    "VR checker does not support this Specific Character Set",  # dcmtk 3.6.7 on UTF-8
    "Element=<AccessionNumber> IE <Study> versus <Series>",  # dcentvfy on any pair of SEG and MR, also highdicom's own
    "<99OVERREAD>",  # private coding schemes are allowed
)


def run(name: str, *arguments: str | Path) -> str:
    """Everything that a counterpart prints; it must end well."""
    tool = program(name)
    assert tool is not None
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def complaints(output: str) -> list[str]:
    """Lines that are errors or warnings, but for the known noise."""
    starts = ("Error", "Warning", "E:", "W:", "F:", "ERROR", "WARN")
    lines = (line.strip() for line in output.splitlines())
    return [line for line in lines if line.startswith(starts) and not any(text in line for text in NOISE)]


def write_all(result, sources, folder: Path, profile: DestinationProfile = CONSERVATIVE) -> dict[Role, Path]:
    """Files of a rendered result by role; the sources beside them in `images`."""
    paths = {}
    for item in render(result, sources, profile):
        paths[item.role] = folder / f"{item.role.value}.dcm"
        paths[item.role].write_bytes(item.to_bytes())
    (folder / "images").mkdir()
    for number, source in enumerate(sources):
        source.save_as(folder / "images" / f"{number}.dcm", enforce_file_format=True)
    return paths


@pytest.fixture(params=["MR", "CT", "without place", "empty", "empty without findings", "comprehensive", "enhanced"])
def written(request, sources, result, empty_result, make_result, tmp_path) -> dict[Role, Path]:
    """The kinds of result that there are."""
    match request.param:
        case "CT":
            shape = result.labels.shape
            images = make_series(shape=shape, spacing_mm=(3.0, 1.5, 1.25), orientation="axial", modality="CT")
            return write_all(make_result(images), images, tmp_path)
        case "without place":
            return write_all(replace(result, findings=(*result.findings, PROBABILITY)), sources, tmp_path)
        case "empty":
            return write_all(empty_result, sources, tmp_path)
        case "empty without findings":
            return write_all(replace(empty_result, findings=()), sources, tmp_path)
        case "comprehensive" | "enhanced":
            profile = DestinationProfile(request.param, report_class=ReportClass(request.param))
            return write_all(result, sources, tmp_path, profile)
    return write_all(result, sources, tmp_path)


@pytest.mark.counterpart("dicom3tools")
def test_dciodvfy_has_nothing_to_say(written):
    for path in written.values():
        assert complaints(run("dciodvfy", "-new", path)) == []


@pytest.mark.counterpart("dicom3tools")
def test_dcentvfy_finds_one_study(written):
    folder = next(iter(written.values())).parent
    output = run("dcentvfy", *written.values(), *sorted((folder / "images").iterdir()))
    assert complaints(output) == []


@pytest.mark.counterpart("dcmtk")
def test_dsrdump_reads_every_report_without_a_word(written):
    for role, path in written.items():
        if role is not Role.SEGMENTATION:
            output = run("dsrdump", path)
            assert complaints(output) == []
            assert "Not for clinical use" in output


@pytest.mark.counterpart("dcmqi")
def test_dcmqi_reads_the_same_voxels(result, sources, tmp_path):
    path = write_all(result, sources, tmp_path)[Role.SEGMENTATION]
    output = run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nii")
    assert complaints(output) == []
    meta = json.loads((tmp_path / "meta.json").read_text())
    described = {item["labelID"]: item for group in meta["segmentAttributes"] for item in group}
    assert [described[number]["SegmentLabel"] for number in (1, 2)] == ["Brain", "Left ventricle"]
    for number, label in ((1, 2), (2, 7)):
        expected = occupied(result.labels == label)
        content = gzip.decompress((tmp_path / f"{number}.nii.gz").read_bytes())
        voxels = np.frombuffer(content[352:], "<i2").reshape(-1, *result.labels.shape[1:])
        found = occupied(voxels != 0)
        assert np.array_equal(found, expected) or np.array_equal(found[::-1], expected)


def occupied(mask: np.ndarray) -> np.ndarray:
    """The slices that hold anything."""
    return mask[mask.any(axis=(1, 2))]


@pytest.mark.counterpart("dcmqi")
def test_dcmqi_reads_every_number(written, tmp_path):
    for role, path in written.items():
        if role is Role.SEGMENTATION:
            continue
        out = tmp_path / f"{role.value}.json"
        assert complaints(run("tid1500reader", "--inputDICOM", path, "--outputMetadata", out)) == []
        groups = json.loads(out.read_text()).get("Measurements", [])
        found = [float(item["value"]) for group in groups for item in group.get("measurementItems", [])]
        assert found == pytest.approx(numbers_of(dcmread(path)), rel=1e-5)


def numbers_of(item) -> list[float]:
    """Values of the NUM items of a content tree, in order."""
    numbers = []
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "NUM":
            numbers.append(float(child.MeasuredValueSequence[0].NumericValue))
        numbers += numbers_of(child)
    return numbers
