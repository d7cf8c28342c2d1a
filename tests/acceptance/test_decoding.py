"""Compressed images in a running node: decoded while they arrive, by processes that end with it, or by a job."""

from pathlib import Path

import psutil
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from node.deliver.folder import send_folder
from node.settings import Destination
from node.store.tables import JobKind, JobState
from tests.counterparts import wait_until
from tests.faulty_archive import FaultyArchive
from tests.models import threshold_network, write_model
from tests.node.volume.breakdown import BREAKS_DOWN, ask_for, use_frail_decoder
from tests.nodes import NodeUnderTest, all_in, running_node
from tests.phantoms import write_series


def decoded(node: NodeUnderTest) -> int:
    """Images in the node's cache of decoded ones."""
    folder = node.folder / "data" / "decoded"
    return sum(entry.is_file() and entry.name != "lock" for entry in folder.rglob("*"))


def test_node_stops_cleanly_while_images_are_decoded_and_goes_on_after(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    write_series(tmp_path / "images", shape=(80, 96, 96), transfer_syntax=JPEG2000Lossless)
    with FaultyArchive() as archive, running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node:
        peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
        assert {answer.status for answer in send_folder(peer, "SENDER", [tmp_path / "images"], 60).answers} == {0x0000}
        wait_until(lambda: decoded(node), "decoded image", 60)
        assert node.process is not None
        family = psutil.Process(node.process.pid).children(recursive=True)
        assert any("spawn_main" in " ".join(each.cmdline()) for each in family if each.is_running())
        assert node.stop() == 0
        _, alive = psutil.wait_procs(family, timeout=15)
        assert alive == []
        node.start()
        archive.wait_for(2, 120)
        assert all_in(JobState.SUCCEEDED)(node.wait_for_jobs(all_in(JobState.SUCCEEDED), "finished jobs"))
        assert all(job.attempt == 1 for job in node.jobs())
    assert "decoded_ahead" in node.log.read_text()


def test_a_study_that_ends_the_worker_is_refused_by_the_next_and_no_other_is_harmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_frail_decoder(tmp_path / "site", monkeypatch)
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    series = write_series(tmp_path / "images", transfer_syntax=JPEGLSLossless)
    broken = ask_for(series[2], BREAKS_DOWN)
    write_series(tmp_path / "images" / "other", transfer_syntax=JPEGLSLossless)
    only_when_loaded = ("[work]\n", "[work]\ndecoded_mb = 0\n"), ("lease_seconds = 30", "lease_seconds = 3")
    with (
        FaultyArchive() as archive,
        running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port, only_when_loaded) as node,
    ):
        peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
        assert {answer.status for answer in send_folder(peer, "SENDER", [tmp_path / "images"], 60).answers} == {0x0000}
        ended = (JobState.SUCCEEDED, JobState.FAILED)
        jobs = node.wait_for_jobs(
            lambda jobs: len(jobs) == 2 and all(job.state in ended for job in jobs), "ended jobs", 60, JobKind.INFER
        )
        (failed,) = (job for job in jobs if job.state is JobState.FAILED)
        assert failed.attempt > 1 and f"{broken}: the decoder of JPEG-LS" in str(failed.last_error)
        archive.wait_for(2, 60)
