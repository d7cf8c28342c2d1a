"""The node as a service: stopping, restarting, what it writes about patients, the demo."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from pydicom.uid import generate_uid

from node.deliver.folder import send_folder
from node.errors import OverreadError
from node.settings import Destination
from node.store.tables import JobKind, JobState
from tests.counterparts import PATIENCE, wait_until
from tests.faulty_archive import FaultyArchive
from tests.models import failing_network, threshold_network, write_model
from tests.nodes import NodeUnderTest, all_in, running_node, without_uids
from tests.phantoms import write_series

INTERRUPTIBLE = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "node", *sys.argv[1:]])
"""
"""Runs the command line where SIGINT ends it, also where a shell runs the tests in the background and ignores it."""
CANARIES = ("Canary^Tweety", "Tweety", "CANARY-ID-4711", "19330405", "ACC-CANARY-1", "Zwitscherheim", "ReferCanary")


def send(node: NodeUnderTest, folder: Path) -> None:
    peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    assert {answer.status for answer in send_folder(peer, "SENDER", [folder], 20).answers} == {0x0000}


def test_stop_in_the_middle_of_an_inference_costs_no_attempt(tmp_path: Path) -> None:
    """SIGTERM ends the node in time while a network runs that takes far longer; its job stays."""
    write_model(tmp_path / "models" / "slow", "slow", threshold_network(repeats=2000))
    write_series(tmp_path / "images", shape=(48, 96, 96))
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "slow", archive.port) as node:
        send(node, tmp_path / "images")
        node.wait_for_jobs(all_in(JobState.RUNNING), "running job", 30)
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(12 * PATIENCE) == 0
        (job,) = node.jobs()
        assert (job.state, job.attempt, job.worker) == (JobState.QUEUED, 0, None)


def test_children_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    with running_node(tmp_path / "node", tmp_path / "models", "ball", 1) as node:
        assert node.process is not None
        children = psutil.Process(node.process.pid).children(recursive=True)
        assert len(children) >= 3
        node.process.kill()
        node.process.wait()
        _, alive = psutil.wait_procs(children, timeout=15 * PATIENCE)
        for child in alive:
            child.kill()
        assert alive == []


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = NodeUnderTest(tmp_path / "node", tmp_path / "models", "ball", 1, port=taken.getsockname()[1])
        node.write_config()
        refused = node.overread("listen")
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{node.port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_process_that_dies_is_started_again(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    write_series(tmp_path / "images", shape=(12, 24, 24))
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node:
        assert node.process is not None
        for child in psutil.Process(node.process.pid).children():
            child.kill()
        wait_until(lambda: _accepts(node, tmp_path / "images"), "restarted listener", 30)
        archive.wait_for(2, 60)


def _accepts(node: NodeUnderTest, folder: Path) -> bool:
    try:
        send(node, folder)
    except OverreadError:
        return False
    return True


def test_restart_finds_the_work_again_and_migrates_with_a_backup(tmp_path: Path) -> None:
    """What was queued before a stop is done after the start; the database is as it was."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    write_series(tmp_path / "images", shape=(12, 24, 24))
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node:
        archive.stop()
        send(node, tmp_path / "images")
        node.wait_for_jobs(lambda jobs: jobs and jobs[0].attempt, "failed delivery", kind=JobKind.DELIVER)
        assert node.stop() == 0
        with sqlite3.connect(tmp_path / "node" / "data" / "overread.sqlite") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        archive.start()
        node.start()
        archive.wait_for(2, 60)


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_nothing_about_the_patient_is_logged(tmp_path: Path, outcome: str) -> None:
    """A canary patient goes through success and failure; every log line, error and status is searched for it."""
    network = threshold_network() if outcome == "success" else failing_network()
    write_model(tmp_path / "models" / "ball", "ball", network)
    study = generate_uid()
    identity = {
        "patient_name": "Canary^Tweety",
        "patient_id": "CANARY-ID-4711",
        "PatientBirthDate": "19330405",
        "AccessionNumber": "ACC-CANARY-1",
        "InstitutionName": "Zwitscherheim",
        "ReferringPhysicianName": "ReferCanary",
    }
    write_series(tmp_path / "good", study_instance_uid=study, shape=(12, 24, 24), **identity)
    write_series(tmp_path / "spoilt", shape=(12, 24, 24), **identity)
    (tmp_path / "spoilt" / "0005.dcm").unlink()
    (path,) = write_series(tmp_path / "cut", shape=(1, 24, 24), **identity)
    path.write_bytes(path.read_bytes()[:-300])
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node:
        send(node, tmp_path / "good")
        send(node, tmp_path / "spoilt")
        peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
        assert send_folder(peer, "SENDER", [tmp_path / "cut"], 20).answers[0].status != 0x0000
        if outcome == "success":
            archive.wait_for(2, 60)
            data_sets = b"".join(one.data_set for one in archive.received)
            assert data_sets.count(b"CANARY-ID-4711") == 2  # the canary went all the way into both objects
        node.wait_for_jobs(lambda jobs: any(job.state is JobState.FAILED for job in jobs), "failed job", 60)
        said = [node.log.read_text()]
        for command in (["status"], ["jobs", "list"], ["jobs", "show", "1"], ["explain", study], ["status", "--json"]):
            said.append(node.say(*command))
        assert node.stop() == 0
    trail = [path.read_text() for path in (node.folder / "data" / "audit").glob("*.log")]
    assert trail and study in trail[0]
    said += trail
    for text in said:
        for canary in CANARIES:
            assert canary not in without_uids(text)


def test_log_has_one_line_for_each_association_and_job(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    write_series(tmp_path / "images", shape=(12, 24, 24))
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node:
        send(node, tmp_path / "images")
        archive.wait_for(2, 60)
        node.wait_for_jobs(all_in(JobState.SUCCEEDED), "finished jobs")
        assert node.stop() == 0
        log = node.log.read_text()
    assert log.count('"event": "job_ended"') == 2
    assert log.count('"calling_ae_title": "SENDER"') == 1


def test_demo_shows_the_main_job_and_cleans_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "Ventricles" in done.stdout
    assert (tmp_path / "demo" / "result" / "preview.png").exists()
    assert len(list((tmp_path / "demo" / "pacs").glob("*.dcm"))) == 2
    # Nothing else is left, not even what ONNX Runtime writes when its telemetry is on.
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_demo_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "demo", "--out", str(tmp_path / "demo")],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    children: list[psutil.Process] = []
    try:
        wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 4, "running node", 60)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30 * PATIENCE) == 130
        _, alive = psutil.wait_procs(children, timeout=10 * PATIENCE)
        assert alive == []
        assert list(tmp_path.glob("overread-demo-*")) == []
    finally:
        for each in [psutil.Process(process.pid), *children] if process.poll() is None else children:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
