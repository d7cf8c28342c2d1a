"""Bad images, bad models and bad archives: each gets a precise answer, and costs no other study."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.deliver.folder import send_folder
from node.settings import Destination
from node.store.tables import DecisionOutcome, JobKind, JobState
from tests.counterparts import free_port, wait_until
from tests.faulty_archive import STORAGE_CLASSES, FaultyArchive
from tests.models import failing_network, threshold_network, write_model, wrong_shape_network
from tests.nodes import NodeUnderTest, overread, running_node
from tests.phantoms import make_series, write_series

ROUTES = """\
[[routes]]
name = "to-{model}"
match = {{ modality = ["MR"], series_description = "^to {model}$" }}
models = ["{model}"]
destinations = ["pacs"]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node with good and bad models, and an archive that takes everything."""
    folder = tmp_path_factory.mktemp("bad-input")
    models = folder / "models"
    write_model(models / "ball", "ball", threshold_network())
    write_model(models / "raises", "raises", failing_network())
    write_model(models / "wrong-shape", "wrong-shape", wrong_shape_network())
    changed = write_model(models / "changed", "changed", threshold_network()) / "model.onnx"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    routes = "".join(ROUTES.format(model=name) for name in ("raises", "wrong-shape", "changed", "absent"))
    with (
        FaultyArchive() as archive,
        running_node(
            folder / "node",
            models,
            "ball",
            archive.port,
            [
                ('modality = ["MR"] }', 'modality = ["MR"], series_description = "phantom" }'),
                ("[[destinations]]", routes + "[[destinations]]"),
                ("lease_seconds = 30", "lease_seconds = 30\nmaximum_attempts = 1"),
                ("limit_seconds = 30", "limit_seconds = 4"),
            ],
        ) as started,
    ):
        started.archive = archive  # type: ignore[attr-defined]
        yield started


def send(node: NodeUnderTest, folder: Path) -> list[int]:
    """Send all files below `folder`; the statuses."""
    peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    return [answer.status for answer in send_folder(peer, "SENDER", [folder], 20).answers]


def write(folder: Path, images: Sequence[Dataset]) -> str:
    """Write data sets as files; their Study Instance UID."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return str(images[0].StudyInstanceUID)


def not_analysed(node: NodeUnderTest, study: str) -> tuple[str, str]:
    """Code and message of the decision that the study cannot be analysed, once it is made."""

    def found() -> list[tuple[str, str]]:
        return [
            (each.code, each.message) for each in node.decisions(study) if each.outcome is DecisionOutcome.NOT_ANALYSED
        ]

    answer: tuple[str, str] = wait_until(found, "decision", 30)[0]
    return answer


def one_slice(images: list[Dataset]) -> list[Dataset]:
    return images[:1]


def gap(images: list[Dataset]) -> list[Dataset]:
    return images[:5] + images[7:]


def mixed_orientation(images: list[Dataset]) -> list[Dataset]:
    images[3].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    return images


def doubled_position(images: list[Dataset]) -> list[Dataset]:
    images[4].ImagePositionPatient = images[3].ImagePositionPatient
    return images


def without_pixels(images: list[Dataset]) -> list[Dataset]:
    del images[2].PixelData
    return images


def without_position(images: list[Dataset]) -> list[Dataset]:
    del images[2].ImagePositionPatient
    return images


def without_spacing(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        del image.PixelSpacing
    return images


SPOILT = (one_slice, gap, mixed_orientation, doubled_position, without_pixels, without_position, without_spacing)


@pytest.fixture(scope="module")
def spoilt(node: NodeUnderTest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Study Instance UID of a study for each way of spoiling it: all are sent, and wait for their decision at once."""
    folder = tmp_path_factory.mktemp("spoilt")
    studies = {}
    for spoil in SPOILT:
        studies[spoil.__name__] = write(folder / spoil.__name__, spoil(make_series(shape=(12, 24, 24))))
        assert set(send(node, folder / spoil.__name__)) == {0x0000}
    return studies


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (one_slice, "input-missing", "slices: wanted at least 2, found 1"),
        (gap, "gap-in-stack", "mm"),
        (mixed_orientation, "mixed-orientation", ""),
        (doubled_position, "duplicate-position", ""),
        (without_pixels, "no-pixel-data", ""),
        (without_position, "missing-geometry", ""),
        (without_spacing, "missing-geometry", ""),
    ],
)
def test_spoilt_series_is_not_analysed_with_the_reason(
    node: NodeUnderTest,
    spoilt: dict[str, str],
    spoil: Callable[[list[Dataset]], list[Dataset]],
    code: str,
    words: str,
) -> None:
    study = spoilt[spoil.__name__]
    found_code, message = not_analysed(node, study)
    assert found_code == code
    assert words in message
    assert code in node.say("explain", study)
    assert study in [each["study_instance_uid"] for each in node.status()["not_analysed"]]


def test_unsupported_modality_is_not_wanted(node: NodeUnderTest, tmp_path: Path) -> None:
    study = write(tmp_path / "images", make_series(shape=(4, 24, 24), modality="CT"))
    send(node, tmp_path / "images")
    decisions = wait_until(lambda: node.decisions(study), "decision", 30)
    assert {each.outcome for each in decisions} == {DecisionOutcome.NOT_WANTED}
    assert "no series meets its conditions" in node.say("explain", study)


@pytest.mark.parametrize(
    ("model", "words", "code"),
    [
        ("raises", "raises", "cannot-run"),
        ("wrong-shape", "expected (1, 2, 12, 24, 24)", "cannot-run"),
        ("changed", "SHA-256", "model-refused"),
    ],
)
def test_bad_model_fails_its_job_with_the_reason(
    node: NodeUnderTest, tmp_path: Path, model: str, words: str, code: str
) -> None:
    study = write(tmp_path / "images", make_series(shape=(12, 24, 24), SeriesDescription=f"to {model}"))
    send(node, tmp_path / "images")
    found, message = not_analysed(node, study)
    assert found == code
    assert words in message
    error = job_of(node, study, JobState.FAILED)[0].last_error
    assert error is not None
    assert model in error
    assert words in error
    assert study in [each["study_instance_uid"] for each in node.status()["not_analysed"]]


def test_model_that_is_not_installed_is_named(node: NodeUnderTest, tmp_path: Path) -> None:
    study = write(tmp_path / "images", make_series(shape=(12, 24, 24), SeriesDescription="to absent"))
    send(node, tmp_path / "images")
    assert not_analysed(node, study)[0] == "model-unavailable"


def test_interleaved_series_are_told_apart(node: NodeUnderTest, tmp_path: Path) -> None:
    """Images of two series of one study arrive in turns: one result, on the series with thinner slices."""
    study = generate_uid()
    thick = make_series(study_instance_uid=study, shape=(10, 24, 24), spacing_mm=(3, 2, 2))
    thin = make_series(study_instance_uid=study, shape=(10, 24, 24), spacing_mm=(2, 2, 2))
    write(tmp_path / "images", [image for pair in zip(thick, thin, strict=True) for image in pair])
    assert set(send(node, tmp_path / "images")) == {0x0000}
    wait_until(lambda: job_of(node, study, JobState.SUCCEEDED), "finished job", 30)
    (job,) = [each for each in node.jobs(JobKind.INFER) if each.study_instance_uid == study]
    assert job.inputs is not None
    assert set(next(iter(job.inputs.values()))) == {image.SOPInstanceUID for image in thin}


def test_truncated_object_is_refused_and_set_aside(node: NodeUnderTest, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "images", shape=(1, 24, 24))
    path.write_bytes(path.read_bytes()[:-500])
    before = node.status()["stored"]["quarantined"]
    (status,) = send(node, tmp_path / "images")
    assert status & 0xF000 == 0xC000
    after = wait_until(lambda: counted(node, before), "quarantined object", 20)
    assert "truncated" in after["quarantine"][0]["code"]
    assert (node.folder / "data" / after["quarantine"][0]["path"]).exists()


def test_object_without_series_uid_is_refused(node: NodeUnderTest, tmp_path: Path) -> None:
    (image,) = make_series(shape=(1, 24, 24))
    del image.SeriesInstanceUID
    write(tmp_path / "images", [image])
    (status,) = send(node, tmp_path / "images")
    assert status in (0xA900, 0xC000)


def test_good_study_after_all_of_them_arrives(node: NodeUnderTest, tmp_path: Path) -> None:
    archive: FaultyArchive = node.archive  # type: ignore[attr-defined]
    before = len(archive.received)
    study = write(tmp_path / "images", make_series(shape=(12, 24, 24)))
    send(node, tmp_path / "images")
    wait_until(lambda: len(archive.received) >= before + 2, "results", 30)
    assert job_of(node, study, JobState.SUCCEEDED)


def test_archive_that_is_away_gets_the_result_when_it_is_back(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    port = free_port()
    archive = FaultyArchive()
    archive.port = port
    with running_node(tmp_path / "node", tmp_path / "models", "ball", port) as node:
        study = write(tmp_path / "images", make_series(shape=(12, 24, 24)))
        send(node, tmp_path / "images")
        node.wait_for_jobs(lambda jobs: jobs and jobs[0].attempt >= 2, "two attempts", kind=JobKind.DELIVER)
        assert "cannot" in str(node.jobs(JobKind.DELIVER)[0].last_error) or "refused" in str(
            node.jobs(JobKind.DELIVER)[0].last_error
        )
        with archive:
            archive.wait_for(2, 30)
            wait_until(lambda: job_of(node, study, JobState.SUCCEEDED, JobKind.DELIVER), "delivery", 30)


def test_archive_that_refuses_segmentations_is_told_about(tmp_path: Path) -> None:
    """It gets the report without its Segmentation, and the administrator is told so."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    with (
        FaultyArchive(refuse=["SEG"]) as archive,
        running_node(tmp_path / "node", tmp_path / "models", "ball", archive.port) as node,
    ):
        study = write(tmp_path / "images", make_series(shape=(12, 24, 24)))
        send(node, tmp_path / "images")
        wait_until(lambda: job_of(node, study, JobState.SUCCEEDED, JobKind.DELIVER), "delivery", 30)
        (job,) = node.jobs(JobKind.DELIVER)
        assert [one.sop_class_uid for one in archive.received] == [STORAGE_CLASSES["COMPREHENSIVE_3D_SR"]]
        assert "refuses Segmentation Storage" in str(job.last_error)
        assert "refuses Segmentation Storage" in node.status()["last_reservations"][0]["message"]
        assert "refuses Segmentation Storage" in node.say("status")


def job_of(node: NodeUnderTest, study: str, state: JobState, kind: JobKind = JobKind.INFER) -> list:
    """Jobs of a study in a state."""
    return [job for job in node.jobs(kind) if job.study_instance_uid == study and job.state is state]


def counted(node: NodeUnderTest, before: int) -> dict | None:
    """The status, once more is in quarantine than before."""
    status = node.status()
    return status if status["stored"]["quarantined"] > before else None


def test_process_names_what_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no DICOM at all")
    config = Path(__file__).parents[2] / "config" / "node.toml"
    done = overread("process", str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(config))
    assert done.returncode == 3
    assert "note.txt" in done.stderr
    assert "not-dicom" in done.stderr


def test_phantom_is_measured_right(node: NodeUnderTest, tmp_path: Path) -> None:
    """The volume of the ball is that of its voxels, whatever the plane of the images."""
    voxels = np.full((12, 24, 24), 100, np.int16)
    voxels[3:9, 5:15, 5:15] = 1000
    study = write(tmp_path / "images", make_series(voxels=voxels, spacing_mm=(2, 1, 1), orientation="oblique"))
    send(node, tmp_path / "images")
    wait_until(lambda: job_of(node, study, JobState.SUCCEEDED), "finished job", 30)
    shown = node.say("jobs", "show", str(job_of(node, study, JobState.SUCCEEDED)[0].job_id), "--json")
    assert '"value": 1.2' in shown
