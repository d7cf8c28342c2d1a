import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest

from node.store import native

Move = Callable[[str, str], None]


def refuse(*_: object) -> Never:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["rename", "file system without it", "system without it", "no links either"])
def move(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Move:
    """Every way in which a file is given its final name."""
    if request.param == "file system without it":
        monkeypatch.setattr(native, "_RENAME_NOREPLACE", 1 << 20)  # EINVAL, as of a file system that knows no flags
    if request.param in ("system without it", "no links either"):
        monkeypatch.setattr(native, "_find", lambda name: None)
    if request.param == "no links either":
        monkeypatch.setattr(os, "link", refuse)
    return native.find_move()


def test_file_is_moved(move: Move, tmp_path: Path) -> None:
    (tmp_path / "süß").write_bytes(b"content")
    move(str(tmp_path / "süß"), str(tmp_path / "final"))
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final").read_bytes() == b"content"


def test_name_that_somebody_has_is_left_alone(move: Move, tmp_path: Path) -> None:
    (tmp_path / "second").write_bytes(b"second")
    (tmp_path / "final").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        move(str(tmp_path / "second"), str(tmp_path / "final"))
    assert (tmp_path / "final").read_bytes() == b"first"
    assert (tmp_path / "second").read_bytes() == b"second"


def test_folder_that_is_missing_is_told(move: Move, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    with pytest.raises(FileNotFoundError):
        move(str(tmp_path / "one"), str(tmp_path / "no folder" / "final"))
    assert (tmp_path / "one").exists()
