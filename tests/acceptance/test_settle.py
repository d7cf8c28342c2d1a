"""Settling against a real archive: late images, counts by C-FIND and QIDO-RS, image by image, across a restart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from node import evidence
from node.deliver.storage_scu import send
from node.settings import Destination
from node.store import results
from node.store.database import read_transaction
from node.store.tables import JobKind, JobState, ResultState
from tests.counterparts import OrthancPeer, free_port, orthanc, wait_until
from tests.faulty_archive import FaultyArchive
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest, all_in, running_node
from tests.phantoms import write_series

pytestmark = pytest.mark.counterpart("orthanc")
SLICES = 20
ARCHIVES = "limit_seconds = 30\n"


def archive_settings(peer: OrthancPeer, kind: str) -> tuple[str, str]:
    """A replacement in the configuration that makes Orthanc the counting archive."""
    how = (
        f'url = "{peer.dicomweb_url}"'
        if kind == "dicomweb"
        else f'ae_title = "PACS", host = "127.0.0.1", port = {peer.dicom_port}'
    )
    # Without the archive's count nothing settles within the time that the test waits.
    return (
        "quiet_seconds = 3\nreleased_quiet_seconds = 0.2\nlimit_seconds = 30\n",
        "quiet_seconds = 120\nreleased_quiet_seconds = 120\nlimit_seconds = 120\n"
        f'archives = [{{ name = "pacs", kind = "{kind}", {how} }}]\n',
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the model `ball`."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    return tmp_path / "models"


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[OrthancPeer]:
    """Orthanc as the PACS."""
    with orthanc(tmp_path / "orthanc", ae_title="PACS") as started:
        yield started


def settled_by(node: NodeUnderTest, study: str) -> str | None:
    with node.database() as engine, read_transaction(engine) as connection:
        found = evidence.settlement_of_study(connection, study)
    return found.settled_by if found else None


def is_counted(node: NodeUnderTest, study: str) -> bool:
    with node.database() as engine, read_transaction(engine) as connection:
        return evidence.count_of_study(connection, study) is not None


def reports(peer: OrthancPeer) -> list[pydicom.Dataset]:
    """The reports in Orthanc."""
    found = [one for one in peer.instances() if one["Modality"] == "SR"]
    return [pydicom.dcmread(pydicom.filebase.DicomBytesIO(peer.download(one["id"]))) for one in found]


def retracted_by(peer: OrthancPeer) -> set[str]:
    """What the one rejection note in Orthanc lists."""
    (note,) = [one for one in peer.instances() if one["Modality"] == "KO"]
    document = pydicom.dcmread(pydicom.filebase.DicomBytesIO(peer.download(note["id"])))
    assert document.ConceptNameCodeSequence[0].CodeValue == "113001"
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    series = [one for each in study.ReferencedSeriesSequence for one in each.ReferencedSOPSequence]
    return {str(one.ReferencedSOPInstanceUID) for one in series}


def wait_for_deliveries(node: NodeUnderTest, peer: OrthancPeer, number: int) -> None:
    peer.wait_for(number, seconds=90, Modality="SR")
    node.wait_for_jobs(
        lambda jobs: len(jobs) == number and all_in(JobState.SUCCEEDED)(jobs), "deliveries", kind=JobKind.DELIVER
    )


@pytest.mark.parametrize("interrupt", [NodeUnderTest.stop, NodeUnderTest.kill, None], ids=["restart", "crash", "run"])
def test_late_images_make_one_current_report_that_names_its_predecessor(
    tmp_path: Path, models: Path, peer: OrthancPeer, interrupt: Callable[[NodeUnderTest], object] | None
) -> None:
    paths = write_series(tmp_path / "images", shape=(SLICES, 24, 24))
    study = str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    early = SLICES * 9 // 10
    retract = ('ae_title = "PACS"\n', 'ae_title = "PACS"\nretract = true\n')
    with running_node(tmp_path / "node", models, "ball", peer.dicom_port, [retract]) as node:
        to_node = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
        send(to_node, "MODALITY", paths[:early], 10)
        wait_for_deliveries(node, peer, 1)
        (first,) = reports(peer)
        if interrupt is not None:
            interrupt(node)
            node.start()
        send(to_node, "MODALITY", paths[early:], 10)
        wait_for_deliveries(node, peer, 2)
        with node.database() as engine, read_transaction(engine) as connection:
            found = results.results_of_study(connection, study)
        assert [(one.revision, one.state) for one in found] == [(1, ResultState.SUPERSEDED), (2, ResultState.CURRENT)]
        (second,) = [one for one in reports(peer) if one.SOPInstanceUID != first.SOPInstanceUID]
        (predecessor,) = second.PredecessorDocumentsSequence
        (series,) = predecessor.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == first.SeriesInstanceUID
        (reference,) = series.ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
        current = {one.sop_instance_uid for one in found[1].objects}
        assert second.SOPInstanceUID in current
        assert "PredecessorDocumentsSequence" not in first
        assert retracted_by(peer) == {one.sop_instance_uid for one in found[0].objects}


@pytest.mark.parametrize(("kind", "each"), [("dimse", 1), ("dicomweb", 1), ("dicomweb", 7)])
def test_study_forwarded_in_pieces_settles_once_by_the_count(
    tmp_path: Path, models: Path, peer: OrthancPeer, kind: str, each: int
) -> None:
    """Each piece is an association of its own: one image, or several; the first is one image."""
    paths = write_series(tmp_path / "images", shape=(SLICES, 24, 24))
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    study = str(headers[0].StudyInstanceUID)
    peer.store(paths)
    with running_node(tmp_path / "node", models, "ball", peer.dicom_port, [archive_settings(peer, kind)]) as node:
        peer.set_modality("node", node.ae_title, node.port)
        peer.forward(str(headers[0].SOPInstanceUID), "node")
        wait_until(lambda: is_counted(node, study), "count of the archive")
        uids = [str(header.SOPInstanceUID) for header in headers]
        for first in range(1, len(uids) - 1, each):
            peer.forward(uids[first : min(first + each, len(uids) - 1)], "node")
        assert settled_by(node, study) is None
        peer.forward(uids[-1], "node")
        wait_until(lambda: settled_by(node, study) == "count", "settling by the count", 20)
        wait_for_deliveries(node, peer, 1)
        assert len(node.jobs(JobKind.INFER)) == 1


def test_archive_that_does_not_answer_delays_nothing(tmp_path: Path, models: Path, peer: OrthancPeer) -> None:
    """The count is asked of a port where nobody listens: the study settles by its release."""
    paths = write_series(tmp_path / "images", shape=(SLICES, 24, 24))
    study = str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    nobody = f'archives = [{{ name = "pacs", ae_title = "PACS", host = "127.0.0.1", port = {free_port()} }}]\n'
    with running_node(tmp_path / "node", models, "ball", peer.dicom_port, [(ARCHIVES, ARCHIVES + nobody)]) as node:
        send(Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port), "CT", paths, 10)
        wait_until(lambda: settled_by(node, study) == "released-whole", "settling by the release", 20)
        wait_for_deliveries(node, peer, 1)


def test_work_begun_early_survives_a_crash_and_is_delivered_once_and_not_before(tmp_path: Path, models: Path) -> None:
    paths = write_series(tmp_path / "images", shape=(SLICES, 24, 24))
    study = str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    waits = (
        "quiet_seconds = 3\nreleased_quiet_seconds = 0.2\nlimit_seconds = 30\n",
        "quiet_seconds = 3600\nreleased_quiet_seconds = 3600\nlimit_seconds = 3600\n",
    )
    with (
        FaultyArchive() as archive,
        running_node(tmp_path / "node", models, "ball", archive.port, [waits]) as node,
    ):
        to_node = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
        send(to_node, "MR", paths, 10)
        node.wait_for_jobs(all_in(JobState.SUCCEEDED), "early work", kind=JobKind.INFER)
        assert states(node, study) == [ResultState.HELD]
        node.kill()
        assert archive.received == []
        node.write_config()  # now a release settles the study
        node.start()
        assert states(node, study) == [ResultState.HELD]
        send(to_node, "MR", paths[:1], 10)
        archive.wait_for(2, 60)
        (job,) = node.jobs(JobKind.INFER)
        assert not job.speculative and (job.saved_seconds or 0) > 0
        assert states(node, study) == [ResultState.CURRENT]
        assert node.status()["early_work"]["confirmed"] == 1
        assert "1 delivered, which saved" in node.say("status")
        assert len(archive.received) == 2


def states(node: NodeUnderTest, study: str) -> list[ResultState]:
    """Of the results of a study."""
    with node.database() as engine, read_transaction(engine) as connection:
        return [one.state for one in results.results_of_study(connection, study)]
