import subprocess
import sys
from pathlib import Path

import pytest

from node.store.files import FileStore

SERIES, INSTANCE, DIGEST = "1.2.3", "1.2.3.4", "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path)
    store.open_session()
    return store


def put(store: FileStore, content: bytes, instance: str = INSTANCE) -> str:
    file = store.new_temporary(content)
    file.finish()
    file.close()
    return store.place(file.path, SERIES, instance, DIGEST)


def test_placed_file_has_its_content_and_leaves_no_temporary(store: FileStore) -> None:
    relative = put(store, b"one")
    assert store.absolute(relative).read_bytes() == b"one"
    assert relative.startswith("instances/") and SERIES in relative and INSTANCE in relative
    assert list((store.data_dir / "incoming").rglob("*.part")) == []


def test_placed_file_is_never_replaced(store: FileStore) -> None:
    first, second = put(store, b"one"), put(store, b"two")
    assert first != second
    assert store.absolute(first).read_bytes() == b"one"
    assert store.absolute(second).read_bytes() == b"two"


def test_place_makes_a_removed_folder_again(store: FileStore) -> None:
    relative = put(store, b"one")
    store.remove(relative)
    store.absolute(relative).parent.rmdir()
    assert store.absolute(put(store, b"two")).read_bytes() == b"two"


@pytest.mark.parametrize("each", [True, False])
def test_sync_of_what_was_placed(store: FileStore, each: bool) -> None:
    store.sync([put(store, b"one"), put(store, b"two", "1.2.3.5")], each=each)


def test_sync_of_what_is_missing_is_an_error(store: FileStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.sync(["instances/00/nothing"], each=True)


def test_set_aside_moves_the_file(store: FileStore) -> None:
    placed = put(store, b"odd")
    relative = store.set_aside(store.absolute(placed), INSTANCE)
    assert store.absolute(relative).read_bytes() == b"odd" and not store.absolute(placed).exists()
    assert relative.startswith("quarantine/")


def test_remove_of_what_is_absent_is_fine(store: FileStore) -> None:
    store.remove("instances/00/nothing")


def test_session_of_a_dead_process_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    living = FileStore(tmp_path)
    living.open_session()
    kept = living.new_temporary()
    kept.close()
    root = Path(__file__).parents[3]
    script = (
        "import os, sys; from pathlib import Path; from node.store.files import FileStore;"
        "store = FileStore(Path(sys.argv[1])); store.open_session(); store.new_temporary(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False, cwd=root)
    assert len(list((tmp_path / "incoming").rglob("*.part"))) == 2
    late = FileStore(tmp_path)
    assert late.open_session() == 1
    assert Path(kept.path).exists()
    late.close_session()
    living.close_session()
    assert list((tmp_path / "incoming").iterdir()) == []


def test_temporary_needs_a_session(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="open_session"):
        FileStore(tmp_path).new_temporary()


def test_folders_of_results_and_backups(store: FileStore) -> None:
    assert store.result_folder(7) == store.data_dir / "results" / "7"
    assert store.backup_folder.is_dir()
    assert store.free_bytes() > 0
