"""`kill -9` of the whole node at random moments of receive, inference and delivery.

Nothing acknowledged is lost, and each study has exactly one result in the end.
"""

import os
import random
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from node.deliver.storage_scu import SendInterrupted, send
from node.errors import OverreadError
from node.receive.header import read_data_set
from node.settings import Destination
from node.store import catalogue, results
from node.store.database import read_transaction
from node.store.tables import JobKind, JobState, ResultState
from tests.counterparts import PATIENCE, wait_until
from tests.faulty_archive import STORAGE_CLASSES, FaultyArchive, Received
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest, all_in
from tests.phantoms import write_series

KILLS = int(os.environ.get("OVERREAD_KILLS", "1000" if os.environ.get("OVERREAD_SOAK") else "30"))
SLICES = 12
SHARES = 3
"""The kills are divided among this many nodes, which can run at the same time."""


class Sender(threading.Thread):
    """Sends studies one after the other, each image until it is acknowledged, and remembers what was."""

    def __init__(self, node: NodeUnderTest, folder: Path) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.folder = folder
        self.acknowledged: set[str] = set()
        self.studies: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        peer = Destination(name="node", ae_title=self.node.ae_title, host="127.0.0.1", port=self.node.port)
        while not self.enough.is_set():
            study = generate_uid()
            paths = write_series(self.folder / study, study_instance_uid=study, shape=(SLICES, 24, 24))
            self.studies.append(study)
            left = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in paths}
            while left:
                try:
                    answers = send(peer, "SENDER", list(left.values()), 10)
                except SendInterrupted as interrupted:
                    answers = list(interrupted.answers)
                except OverreadError:
                    answers = []
                for answer in answers:
                    if answer.status == 0x0000:
                        self.acknowledged.add(answer.sop_instance_uid)
                        left.pop(answer.sop_instance_uid, None)
                if left:
                    self.enough.wait(0.1)

    def send_all_again(self) -> bool:
        """Every study in an association that is released; False where the node did not take that."""
        peer = Destination(name="node", ae_title=self.node.ae_title, host="127.0.0.1", port=self.node.port)
        try:
            for study in self.studies:
                send(peer, "SENDER", sorted((self.folder / study).iterdir()), 10)
        except OverreadError:
            return False
        return True


@pytest.mark.parametrize("share", range(SHARES))
def test_nothing_acknowledged_is_lost_and_nothing_made_twice(tmp_path: Path, share: int) -> None:
    moments = random.Random(share)
    models = tmp_path / "models"
    write_model(models / "ball", "ball", threshold_network(repeats=6))
    kills = KILLS // SHARES
    with FaultyArchive() as archive:
        node = NodeUnderTest(tmp_path / "node", models, "ball", archive.port)
        # No study settles before its association was released, however long it takes to send again what was
        # interrupted. A killed worker costs an attempt.
        node.write_config(
            [
                ("limit_seconds = 30\n", "limit_seconds = 3600\n"),
                ("lease_seconds = 30", "lease_seconds = 5\nmaximum_attempts = 100"),
            ]
        )
        node.start()
        sender = Sender(node, tmp_path / "images")
        sender.start()
        try:
            for _ in range(kills):
                time.sleep(moments.uniform(0.0, 2.0))  # the moment is what is tested
                node.kill()
                node.start(wait=moments.random() < 0.7)
            sender.enough.set()
            sender.join(60 * PATIENCE)
            assert not sender.is_alive()
            # The node may have been killed after the last image and before the release.
            wait_until(sender.send_all_again, "association for each study", 60)
            wait_until(lambda: finished(node, len(sender.studies)), "all results delivered", 120)
            check(node, sender, archive.received)
            assert node.stop() == 0
        finally:
            sender.enough.set()
            node.kill()


def finished(node: NodeUnderTest, studies: int) -> bool:
    """Whether every study has its inference and its delivery behind it."""
    infer, deliver = node.jobs(JobKind.INFER), node.jobs(JobKind.DELIVER)
    current = {job.study_instance_uid for job in infer if job.state is JobState.SUCCEEDED}
    delivered = {job.study_instance_uid for job in deliver if job.state is JobState.SUCCEEDED}
    open_jobs = [job for job in infer + deliver if job.state in (JobState.QUEUED, JobState.RUNNING)]
    with node.database() as engine, read_transaction(engine) as connection:
        receiving = catalogue.holdings(connection).series_receiving
    return not open_jobs and not receiving and len(current) == len(delivered) == studies


def check(node: NodeUnderTest, sender: Sender, received: list[Received]) -> None:
    """Acknowledged objects are there with their content; each study has one result, one Segmentation and one report."""
    assert len(sender.acknowledged) == SLICES * len(sender.studies)
    with node.database() as engine, read_transaction(engine) as connection:
        for study in sender.studies:
            (series,) = catalogue.study_series(connection, study)
            assert len(series.instances) == SLICES
            assert {each.sop_instance_uid for each in series.instances} <= sender.acknowledged
            for each in series.instances:
                path = node.folder / "data" / each.path
                assert path.stat().st_size == each.size_bytes
                assert str(pydicom.dcmread(path).SOPInstanceUID) == each.sop_instance_uid
            assert [one.state for one in results.results_of_study(connection, study)] == [ResultState.CURRENT]
    assert all_in(JobState.SUCCEEDED)(node.jobs())
    objects: dict[tuple[str, str], set[tuple[str, bytes]]] = {}
    for one in received:
        study = read_data_set(one.data_set, one.transfer_syntax_uid).study_instance_uid
        objects.setdefault((study, one.sop_class_uid), set()).add((one.sop_instance_uid, one.data_set))
    classes = (STORAGE_CLASSES["SEG"], STORAGE_CLASSES["COMPREHENSIVE_3D_SR"])
    assert {key: len(made) for key, made in objects.items()} == {
        (study, sop_class): 1 for study in sender.studies for sop_class in classes
    }
