"""The main job against a real PACS: Orthanc forwards a real brain MR, and gets a Segmentation and a report back."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from node.store.tables import JobKind, JobState
from tests.conftest import program
from tests.counterparts import OrthancPeer, orthanc
from tests.nodes import NodeUnderTest, all_in, running_node

pytestmark = pytest.mark.counterpart("orthanc", "dcmtk", "dicom3tools", "dcmqi")
MODELS = Path(__file__).parents[2] / "config" / "models"
SEG_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
SR_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass
class RoundTrip:
    """What was sent, and what came back into the PACS."""

    node: NodeUnderTest
    peer: OrthancPeer
    sources: list[Path]
    segmentation: Path
    report: Path


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory, demo_series: Path) -> Iterator[RoundTrip]:
    """Orthanc forwards the series to the node, and the results are back in Orthanc."""
    folder = tmp_path_factory.mktemp("round-trip")
    sources = sorted(demo_series.glob("*.dcm"))
    with (
        orthanc(folder / "orthanc", ae_title="PACS") as peer,
        running_node(folder / "node", MODELS, "brain-ventricles", peer.dicom_port) as node,
    ):
        peer.set_modality("node", node.ae_title, node.port)
        peer.store(sources)
        peer.forward(str(pydicom.dcmread(sources[0], stop_before_pixels=True).StudyInstanceUID), "node")
        peer.wait_for(1, seconds=120, Modality="SR")
        node.wait_for_jobs(all_in(JobState.SUCCEEDED), "delivery that has ended", kind=JobKind.DELIVER)
        results = [one for one in peer.instances() if one["Modality"] in ("SEG", "SR")]
        assert sorted(one["SOPClassUID"] for one in results) == [SEG_SOP_CLASS, SR_SOP_CLASS]
        paths = {}
        for one in results:
            paths[one["Modality"]] = folder / f"{one['Modality']}.dcm"
            paths[one["Modality"]].write_bytes(peer.download(one["id"]))
        yield RoundTrip(node, peer, sources, paths["SEG"], paths["SR"])


def test_results_belong_to_the_study_in_series_of_their_own(round_trip: RoundTrip) -> None:
    source = pydicom.dcmread(round_trip.sources[0], stop_before_pixels=True)
    segmentation, report = pydicom.dcmread(round_trip.segmentation), pydicom.dcmread(round_trip.report)
    for made in (segmentation, report):
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "AccessionNumber"):
            assert made.get(keyword) == source.get(keyword), keyword
    uids = {each.SeriesInstanceUID for each in (source, segmentation, report)}
    assert len(uids) == 3
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


@pytest.mark.parametrize("name", ["segmentation", "report"])
def test_validators_find_no_error(round_trip: RoundTrip, name: str) -> None:
    path = getattr(round_trip, name)
    checked = subprocess.run([str(program("dciodvfy")), "-new", path], capture_output=True, text=True, check=False)
    errors = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
    assert errors == []


def test_dsrdump_reads_the_report_without_complaint(round_trip: RoundTrip) -> None:
    dumped = subprocess.run(
        [str(program("dsrdump")), str(round_trip.report)], capture_output=True, text=True, check=False
    )
    assert dumped.returncode == 0
    assert [line for line in dumped.stderr.splitlines() if line[:2] in ("E:", "W:", "F:")] == []
    assert "Ventricle to parenchyma volume ratio" in dumped.stdout


def test_volumes_in_the_report_are_those_of_the_voxels(round_trip: RoundTrip, tmp_path: Path) -> None:
    """Three readers agree: highdicom on both objects, dcmqi on the Segmentation, and the report's numbers."""
    segmentation = hd.seg.segread(round_trip.segmentation)
    volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    by_highdicom = {n: float((volume.array == n).sum()) * voxel_ml for n in segmentation.segment_numbers}
    report = hd.sr.srread(round_trip.report)
    in_report = {}
    for group in report.content.get_volumetric_roi_measurement_groups():
        (number,) = group.referenced_segment.referenced_segment_numbers
        (measured,) = group.get_measurements(name=hd.sr.CodedConcept("118565006", "SCT", "Volume"))
        in_report[number] = measured.value
    assert set(in_report) == set(by_highdicom) == {1, 2}
    assert in_report == pytest.approx(by_highdicom, rel=1e-6)
    assert by_highdicom[1] > 800
    assert 3 < by_highdicom[2] < 100

    itk = subprocess.run(
        [
            str(program("segimage2itkimage")),
            "--inputDICOM",
            str(round_trip.segmentation),
            "--outputDirectory",
            str(tmp_path),
            "-t",
            "nrrd",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert itk.returncode == 0, itk.stderr
    for number in (1, 2):
        voxels, spacing_mm = read_nrrd(tmp_path / f"{number}.nrrd")
        assert (voxels > 0).sum() * np.prod(spacing_mm) / 1000 == pytest.approx(by_highdicom[number], rel=1e-6)


def test_dcmqi_reads_every_number_of_the_report(round_trip: RoundTrip, tmp_path: Path) -> None:
    read = subprocess.run(
        [
            str(program("tid1500reader")),
            "--inputDICOM",
            str(round_trip.report),
            "--outputMetadata",
            str(tmp_path / "m.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    assert '"Ventricle to parenchyma volume ratio"' in (tmp_path / "m.json").read_text()


def test_sending_the_study_again_makes_no_new_work(round_trip: RoundTrip) -> None:
    before = round_trip.node.jobs()
    instances = len(round_trip.peer.instances())
    round_trip.peer.forward(
        str(pydicom.dcmread(round_trip.sources[0], stop_before_pixels=True).StudyInstanceUID), "node"
    )
    assert [job.job_id for job in round_trip.node.jobs()] == [job.job_id for job in before]
    assert len(round_trip.peer.instances()) == instances


def test_explain_and_status_tell_what_happened(round_trip: RoundTrip) -> None:
    uid = str(pydicom.dcmread(round_trip.sources[0], stop_before_pixels=True).StudyInstanceUID)
    explained = round_trip.node.overread("explain", uid)
    assert explained.returncode == 0, explained.stderr
    assert "chosen" in explained.stdout
    status = round_trip.node.status()
    assert status["stored"]["studies"] == 1
    assert status["jobs"]["INFER"]["SUCCEEDED"] == status["jobs"]["DELIVER"]["SUCCEEDED"] == 1


def read_nrrd(path: Path) -> tuple[np.ndarray, list[float]]:
    """Voxels and spacing (mm) of a gzip- or raw-encoded NRRD file, read without any library."""
    import gzip

    content = path.read_bytes()
    head, _, body = content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    types = {"unsigned char": "u1", "short": "<i2", "unsigned short": "<u2"}
    data = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    directions = fields["space directions"].replace("(", "").replace(")", "").split()
    spacing = [float(np.linalg.norm([float(v) for v in direction.split(",")])) for direction in directions]
    return np.frombuffer(data, types[fields["type"]]), spacing
