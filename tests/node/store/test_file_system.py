"""Which syncs are believed."""

import errno
import os
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


@pytest.mark.parametrize("syncs_before", [0, 1, 2])
def test_file_system_that_became_read_only_does_not_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs_before: int
) -> None:
    """As after an error on the disk; also where syncfs keeps it to itself, as it does in older kernels."""
    image = make_image(tmp_path / "image", 8)
    with mounted(image, tmp_path / "disk", "-o", "loop,errors=remount-ro") as disk:
        file_system = FileSystem(disk)
        for _ in range(syncs_before):
            file_system.sync()
        _report_an_error(disk)
        monkeypatch.setattr(file_system, "_native", lambda _: None)
        with pytest.raises(OSError, match="Read-only") as raised:
            file_system.sync()
        assert raised.value.errno == errno.EROFS and file_system.failed_syncs == 1
        file_system.close()


def _report_an_error(disk: Path) -> None:
    """Let ext4 believe that it found one."""
    device = disk.stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    try:
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")
    except OSError as error:
        leave_out(f"an error of ext4 cannot be caused here: {error.strerror}")


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
