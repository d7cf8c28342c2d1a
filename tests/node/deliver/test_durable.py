"""Files and folders that appear whole, or not at all."""

from pathlib import Path

import pytest

from node.deliver.durable import whole_folder, write_whole


def test_folder_is_whole_or_not_there_and_an_error_leaves_nothing_in_the_way(tmp_path: Path):
    folder = tmp_path / "study" / "form"
    for _ in range(2):
        with pytest.raises(OSError, match="full"), whole_folder(folder) as staging:
            (staging / "a").write_text("half")
            raise OSError("the disk is full")
        assert not list(folder.parent.iterdir())
    with whole_folder(folder) as staging:
        (staging / "a").write_text("whole")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["form"] and (folder / "a").read_text() == "whole"


def test_of_two_at_once_the_first_one_stays(tmp_path: Path):
    folder = tmp_path / "form"
    with pytest.raises(OSError), whole_folder(folder) as slow:
        (slow / "a").write_text("slow")
        with whole_folder(folder) as fast:
            (fast / "a").write_text("fast")
    assert (folder / "a").read_text() == "fast" and [path.name for path in tmp_path.iterdir()] == ["form"]


def test_file_is_whole_or_not_there(tmp_path: Path):
    write_whole(tmp_path / "note.dcm", b"whole")
    write_whole(tmp_path / "note.dcm", b"other")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("note.dcm", b"other")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "folder", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"note.dcm", "folder"}
