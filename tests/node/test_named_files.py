"""Files that a configuration names are looked for before anything is started."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import Permanent
from node.named_files import make_home, unusable_files
from node.service import prepare
from node.settings import load_settings

ROOT = Path(__file__).parents[2]
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


def test_a_data_folder_of_another_user_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    script = """
import os, sys
from pathlib import Path
from node.errors import Permanent
from node.named_files import make_home
if os.geteuid() == 0:  # who may write everywhere
    os.setuid(65534)
try:
    make_home(Path(sys.argv[1]))
except Permanent as error:
    print(error)
"""
    command = [sys.executable, "-c", script, tmp_path / "data"]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search("this user may not write to (.*?):", told)
    assert found and tmp_path.is_relative_to(found[1]), told
