"""`overread render`, on results in a folder and on those of a job."""

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.counterparts import free_port
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest
from tests.phantoms import write_series


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> NodeUnderTest:
    """A node that has analysed `images` into `out`, beside its folder; nothing is started."""
    there = tmp_path_factory.mktemp("processed")
    write_model(there / "models" / "ball", "ball", threshold_network())
    node = NodeUnderTest(there / "node", there / "models", "ball", free_port())
    node.write_config()
    write_series(there / "images")
    node.say("process", str(there / "images"), "--out", str(there / "out"))
    return node


def test_a_folder_is_rendered_with_a_shipped_profile_and_a_sites_own(processed: NodeUnderTest, tmp_path: Path) -> None:
    there = processed.folder.parent
    (folder,) = {path.parent for path in (there / "out").rglob("result.json")}
    arguments = ("render", str(folder), "--images", str(there / "images"), "--out")
    said = json.loads(processed.say(*arguments, str(tmp_path / "ohif"), "--profile", "ohif", "--json"))
    assert (said["profile"], said["problems"]) == ("ohif", [])
    assert [each["role"] for each in said["objects"]] == ["segmentation", "report"]
    profile = tmp_path / "mine.toml"
    profile.write_text('roles = ["report"]\nreport_class = "enhanced"\n')
    assert processed.overread(*arguments, str(tmp_path / "mine"), "--profile", str(profile)).returncode == 0
    assert dcmread(tmp_path / "mine" / "report.dcm").SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.22"


def test_what_is_not_there_is_said(processed: NodeUnderTest, tmp_path: Path) -> None:
    there = processed.folder.parent
    (folder,) = {path.parent for path in (there / "out").rglob("result.json")}
    out = ("--out", str(tmp_path / "x"))
    unknown = processed.overread("render", str(folder), *out, "--profile", "pacs")
    assert unknown.returncode == 1 and "no profile is called 'pacs'" in unknown.stderr
    no_result = processed.overread("render", str(there / "images"), *out)
    assert no_result.returncode == 1 and "holds no complete result" in no_result.stderr
    images = processed.overread("render", str(folder), *out, "--images", str(folder))
    assert images.returncode == 1 and "source images are not among the files" in images.stderr
