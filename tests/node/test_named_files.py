"""Files that a configuration names are looked for before anything is started."""

import os
from pathlib import Path

import pytest

from node.errors import Permanent
from node.named_files import make_home, unusable_files
from node.service import prepare
from node.settings import load_settings

CONFIG = """
[dimse]
tls_certificate = "node.pem"
tls_key = "node.key"
peers = [{ ae_title = "CT1", user = "ct1", password_file = "ct1.password" }]
[web]
enabled = true
clients = [{ ae_title = "CT1", bearer_token_file = "ct1.token" }]
[[destinations]]
name = "ris"
kind = "hl7"
host = "ris.example.org"
port = 2575
receiving_application = "RIS"
template = "ris.toml"
tls = { ca_file = "ca.pem" }
[[destinations]]
name = "share"
kind = "folder"
folder = "share"
"""


def test_each_one_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(CONFIG)
    (tmp_path / "node.pem").write_text("certificate")
    problems = unusable_files(load_settings(file))
    assert {problem.split(":")[0] for problem in problems} == {
        "dimse.tls_key",
        "dimse.peers.0.password_file",
        "web.clients.0.bearer_token_file",
        "destinations.ris.tls.ca_file",
        "destinations.ris.template",
        "destinations.share.folder",
    }
    assert f"dimse.tls_key: {tmp_path / 'node.key'}: cannot be read (No such file or directory)" in problems


def test_nothing_is_said_of_what_is_there_or_not_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(CONFIG)
    for name in ("node.pem", "node.key", "ct1.password", "ct1.token", "ris.toml", "ca.pem"):
        (tmp_path / name).write_text("content")
    (tmp_path / "share").mkdir()
    assert unusable_files(load_settings(file)) == []
    file.write_text("")
    assert unusable_files(load_settings(file)) == []


def test_a_data_folder_that_cannot_be_is_told_before_the_start_and_at_it(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata_dir = "here/data"\n')
    settings = load_settings(file)
    assert unusable_files(settings) == []
    (tmp_path / "here").write_text("a file")
    assert unusable_files(settings) == [f"node.data_dir: {settings.node.data_dir}: {tmp_path / 'here'} is no folder"]
    with pytest.raises(Permanent, match=r"node\.data_dir: .* is no folder: name a folder that the user"):
        prepare(settings)
    with pytest.raises(Permanent, match=r"data_dir: /proc/overread: .*: name a folder"):
        make_home(Path("/proc/overread"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_of_another_user_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Permanent, match=f"this user may not write to {tmp_path}"):
        make_home(tmp_path / "data")
