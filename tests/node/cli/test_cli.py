"""The command line as its users meet it: output, JSON, exit codes, clear errors."""

import json
from pathlib import Path

import pytest

from node.store.database import migrate
from tests.counterparts import free_port, storescp
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest, overread
from tests.phantoms import write_series


@pytest.fixture
def node(tmp_path: Path) -> NodeUnderTest:
    """A configuration with one model; nothing is started."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    made = NodeUnderTest(tmp_path / "node", tmp_path / "models", "ball", free_port())
    made.write_config()
    return made


def test_help_lists_every_command_and_the_exit_codes() -> None:
    shown = overread("--help")
    assert shown.returncode == 0
    for word in ("run", "process", "explain", "status", "jobs", "models", "check-config", "130 interrupted"):
        assert word in shown.stdout


def test_unknown_command_is_a_usage_error() -> None:
    assert overread("frobnicate").returncode == 2


def test_check_config_accepts_a_good_file(node: NodeUnderTest) -> None:
    checked = overread("check-config", str(node.config), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["problems"] == []


def test_check_config_names_file_key_and_fix(node: NodeUnderTest) -> None:
    node.write_config([("free_disk_mb", "free_disk_gb")])
    checked = overread("check-config", str(node.config))
    assert checked.returncode == 2
    assert checked.stderr.startswith(f"overread: {node.config}:")
    assert "dimse.free_disk_gb: found an unknown key (did you mean free_disk_mb?)" in checked.stderr
    for_programs = overread("check-config", str(node.config), "--json")
    assert for_programs.returncode == 2
    assert json.loads(for_programs.stdout)["problems"] == [checked.stderr.removeprefix("overread: ").strip()]


def test_check_config_finds_a_model_that_is_not_installed(node: NodeUnderTest) -> None:
    node.write_config([('models = ["ball"]', 'models = ["ball", "nodule"]')])
    checked = overread("check-config", str(node.config))
    assert checked.returncode == 2
    assert "no model 'nodule'; installed are ball" in checked.stdout.replace("\n", " ")


def test_run_refuses_a_wrong_configuration_at_once(node: NodeUnderTest) -> None:
    node.write_config([("port = ", "prot = ")])
    assert node.overread("run").returncode == 2


def test_status_without_a_database_says_what_to_do(node: NodeUnderTest) -> None:
    asked = node.overread("status")
    assert asked.returncode == 1
    assert "start the node once" in asked.stderr


def test_database_that_is_not_there_is_one_line(node: NodeUnderTest) -> None:
    url = f"postgresql://overread:secret@127.0.0.1:{free_port()}/overread"
    node.write_config([("[node]", f'[node]\ndatabase_url = "{url}"')])
    asked = node.overread("status")
    assert asked.returncode == 1
    assert "the database cannot be used" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert "secret" not in asked.stderr


def test_missing_configuration_is_named(tmp_path: Path) -> None:
    asked = overread("status", "--config", str(tmp_path / "absent.toml"))
    assert asked.returncode == 2
    assert "absent.toml" in asked.stderr


def test_process_writes_objects_and_preview_and_prints_findings(node: NodeUnderTest, tmp_path: Path) -> None:
    write_series(tmp_path / "images", shape=(12, 24, 24))
    (tmp_path / "images" / "README.txt").write_text("no image")
    done = node.overread("process", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--json")
    assert "README.txt" in done.stderr
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["model"] == "ball"
    assert result["findings"][0]["measurements"][0]["unit"] == "mL"
    names = {path.name for path in Path(result["folder"]).iterdir()}
    assert names == {"segmentation.dcm", "report.dcm", "preview.png", "result.json", "arrays.npz"}


def test_process_of_a_study_with_a_gap_exits_with_3(node: NodeUnderTest, tmp_path: Path) -> None:
    write_series(tmp_path / "images", shape=(12, 24, 24))
    (tmp_path / "images" / "0006.dcm").unlink()
    done = node.overread("process", str(tmp_path / "images"), "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "gap-in-stack" in done.stdout


def test_process_with_an_unknown_model_names_those_there_are(node: NodeUnderTest, tmp_path: Path) -> None:
    write_series(tmp_path / "images", shape=(12, 24, 24))
    done = node.overread("process", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--model", "nodule")
    assert done.returncode == 1
    assert "known are ball" in done.stderr


def test_explain_of_files_says_why_not(node: NodeUnderTest, tmp_path: Path) -> None:
    write_series(tmp_path / "images", shape=(3, 24, 24), modality="CT")
    explained = node.overread("explain", str(tmp_path / "images"), "--json")
    assert explained.returncode == 0, explained.stderr
    (study,) = json.loads(explained.stdout)
    (route,) = study["routes"]
    assert not route["wants"]
    assert route["series"][0]["conditions"][0] == {
        "name": "Modality",
        "wanted": "MR",
        "found": "CT",
        "met": False,
    }


def test_models_check_names_the_changed_file(node: NodeUnderTest, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ball"
    assert overread("models", "check", str(folder)).returncode == 0
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    checked = overread("models", "check", str(folder))
    assert checked.returncode == 1
    assert "model.onnx" in checked.stdout
    listed = json.loads(node.overread("models", "list", "--json").stdout)
    assert [model["identifier"] for model in listed["models"]] == ["ball"]


@pytest.mark.counterpart("dcmtk")
def test_send_and_echo_against_storescp(tmp_path: Path) -> None:
    write_series(tmp_path / "images", shape=(3, 24, 24))
    (tmp_path / "images" / "note.txt").write_text("not DICOM")
    with storescp(tmp_path / "peer") as peer:
        to = ("--to", f"127.0.0.1:{peer.port}", "--called-ae", peer.ae_title)
        assert overread("echo", *to).returncode == 0
        sent = overread("send", str(tmp_path / "images"), *to, "--json")
        assert sent.returncode == 0, sent.stderr
        report = json.loads(sent.stdout)
        assert report["sent"] == 3
        assert [Path(each["path"]).name for each in report["skipped"]] == ["note.txt"]
        assert len(peer.received()) == 3


def test_echo_to_nobody_fails_with_the_address() -> None:
    port = free_port()
    asked = overread("echo", "--to", f"127.0.0.1:{port}", "--called-ae", "NOBODY")
    assert asked.returncode == 1
    assert f"127.0.0.1:{port}" in asked.stderr.replace("\n", "")


def test_jobs_of_a_node_without_work(node: NodeUnderTest) -> None:
    (node.folder / "data").mkdir()
    migrate(f"sqlite:///{node.folder / 'data' / 'overread.sqlite'}", None)
    assert json.loads(node.overread("jobs", "list", "--json").stdout) == []
    shown = node.overread("jobs", "show", "7")
    assert shown.returncode == 1
    assert "there is no job 7" in shown.stderr
