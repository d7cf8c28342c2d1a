"""Which syncs are believed."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from node.errors import Permanent
from node.store.file_system import FileSystem
from node.store.files import FileStore
from tests.counterparts import leave_out
from tests.mounts import make_image, mounted


@pytest.fixture
def other_disk(tmp_path: Path) -> Path:
    """A folder on another file system than that of `tmp_path`."""
    if os.getuid() != 0:
        leave_out("a file system can only be mounted by root")
    return tmp_path / "disk"


def test_sync_of_an_overlay_is_not_believed(tmp_path: Path, other_disk: Path) -> None:
    """It succeeds although the file system below could not write."""
    folders = {name: other_disk / name for name in ("lower", "upper", "work")}
    with mounted("tmpfs", other_disk, "-t", "tmpfs"):
        for folder in folders.values():
            folder.mkdir()
        assert FileSystem(other_disk).can_sync
        options = ",".join(f"{name}dir={folder}" for name, folder in folders.items())
        with mounted("overlay", tmp_path / "merged", "-t", "overlay", "-o", options) as merged:
            assert not FileSystem(merged).can_sync


def test_file_system_that_became_read_only_does_not_sync(tmp_path: Path) -> None:
    with mounted(make_image(tmp_path / "image", 8), tmp_path / "disk") as disk:
        file_system = FileSystem(disk)
        file_system.sync()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="Read-only") as raised:
            file_system.sync()
        assert raised.value.errno == errno.EROFS and file_system.failed_syncs == 1
        file_system.close()


def test_files_on_a_disk_of_their_own_are_what_is_synced(tmp_path: Path, other_disk: Path) -> None:
    with mounted("tmpfs", other_disk, "-t", "tmpfs"):
        for name in ("incoming", "instances"):
            (other_disk / name).mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "instances").symlink_to(other_disk / "instances")
        files = FileStore(tmp_path / "data")
        assert files.file_system.holds(other_disk) and not files.file_system.holds(files.data_dir)
        with pytest.raises(Permanent, match="two file systems"):
            files.open_session()
        (tmp_path / "data" / "incoming").rmdir()
        (tmp_path / "data" / "incoming").symlink_to(other_disk / "incoming")
        files.open_session()
        files.close_session()
