from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from node.deliver.folder import find_instances, send_folder
from node.deliver.storage_scu import SendInterrupted
from node.errors import Permanent
from node.settings import Destination
from tests.faulty_archive import Abort, Answer, FaultyArchive
from tests.phantoms import write_series

DestinationAt = Callable[..., Destination]


def test_files_are_found_in_order_and_others_skipped_with_a_reason(tmp_path: Path):
    series = write_series(tmp_path / "a" / "b", shape=(3, 16, 16))
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    found = find_instances([tmp_path / "a"])
    assert [file.path for file in found.files] == series
    ((path, reason),) = found.skipped
    assert path.name == "notes.txt" and "no DICM prefix" in reason


def test_dicomdir_is_skipped(tmp_path: Path):
    media = FileSet()
    for path in write_series(tmp_path / "series", shape=(2, 16, 16)):
        media.add(path)
    media.write(tmp_path / "media")
    found = find_instances([tmp_path / "media"])
    assert len(found.files) == 2
    assert [(path.name, reason) for path, reason in found.skipped] == [
        ("DICOMDIR", "is a DICOMDIR, which is not an object to send")
    ]


def test_path_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(Permanent, match="no such file or folder"):
        find_instances([tmp_path / "nowhere"])


def test_folder_is_sent_and_progress_is_told(tmp_path: Path, destination_at: DestinationAt):
    write_series(tmp_path / "in", shape=(3, 16, 16))
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    told: list[tuple[int, int]] = []
    with FaultyArchive([Answer(0x0000), Answer(0xC000)]) as archive:
        report = send_folder(
            destination_at(archive.port), "OVERREAD", [tmp_path / "in"], 60, lambda *step: told.append(step)
        )
    assert [answer.status for answer in report.answers] == [0x0000, 0xC000, 0x0000]
    assert [skipped.path.name for skipped in report.skipped] == ["notes.txt"]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_refused_sop_class_skips_its_files_only(tmp_path: Path, destination_at: DestinationAt):
    write_series(tmp_path / "mr", shape=(2, 16, 16))
    write_series(tmp_path / "ct", shape=(2, 16, 16), modality="CT", transfer_syntax=RLELossless)
    with FaultyArchive(refuse=["CT"]) as archive:
        report = send_folder(destination_at(archive.port), "OVERREAD", [tmp_path / "ct", tmp_path / "mr"], 60)
    assert len(report.answers) == 2
    assert len(report.skipped) == 2
    assert "CT Image Storage" in report.skipped[0].reason and "RLE Lossless" in report.skipped[0].reason


def test_lost_connection_tells_what_was_answered(tmp_path: Path, destination_at: DestinationAt):
    write_series(tmp_path, shape=(3, 16, 16))
    with FaultyArchive([Answer(0x0000), Abort()]) as archive, pytest.raises(SendInterrupted) as caught:
        send_folder(destination_at(archive.port), "OVERREAD", [tmp_path], 60)
    assert len(caught.value.answers) == 1
