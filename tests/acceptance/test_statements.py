"""A study that could not be analysed, through the whole node: an archive that wants to know is told, and told again."""

from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_sr import content_tree
from node.deliver.folder import send_folder
from node.settings import Destination
from node.store import results
from node.store.database import read_transaction
from node.store.tables import ResultState
from tests.faulty_archive import FaultyArchive, Received
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest, running_node
from tests.phantoms import make_series

SLICES = 20
SECONDS = 30


def read(received: Received) -> Dataset:
    """What the archive was sent, as a data set."""
    return read_dataset(BytesIO(received.data_set), UID(received.transfer_syntax_uid).is_implicit_VR, True)


def send(node: NodeUnderTest, folder: Path, images: list[Dataset]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    assert {answer.status for answer in send_folder(peer, "SENDER", [folder], 20).answers} == {0}


def code_of(report: Dataset, concept: str) -> str:
    item = next(each for each in content_tree.walk(report) if content_tree.concept_value(each) == concept)
    return str(item.ConceptCodeSequence[0].CodeValue)


def test_archive_is_told_why_and_then_what_was_found(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models / "ball", "ball", threshold_network())
    images = make_series(shape=(SLICES, 32, 32), spacing_mm=(2.0, 1.5, 1.5))
    study = str(images[0].StudyInstanceUID)
    with FaultyArchive() as archive:
        settings = [
            (f"port = {archive.port}\n", f"port = {archive.port}\nsend_not_analysed = true\n"),
            ("limit_seconds = 30", "limit_seconds = 4"),
            ("lease_seconds = 30", "lease_seconds = 30\npoll_seconds = 0.5"),
        ]
        with running_node(tmp_path / "node", models, "ball", archive.port, settings) as node:
            send(node, tmp_path / "gap", [*images[:9], *images[12:]])
            statement = read(archive.wait_for(1, SECONDS)[0])
            assert code_of(statement, "111017") == "111245", "no algorithm succeeded"
            assert code_of(statement, "reason") == node.decisions(study)[0].code[:16].rstrip("-")
            assert statement.StudyInstanceUID == study
            send(node, tmp_path / "missing", images[9:12])
            found = [read(each) for each in archive.wait_for(3, SECONDS)[1:]]
            report = next(each for each in found if each.Modality == "SR")
            (replaced,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
            assert replaced.ReferencedSOPInstanceUID == statement.SOPInstanceUID
            with node.database() as engine, read_transaction(engine) as connection:
                states = [each.state for each in results.results_of_study(connection, study)]
            assert states == [ResultState.SUPERSEDED, ResultState.CURRENT]
