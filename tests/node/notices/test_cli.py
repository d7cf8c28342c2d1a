"""`overread notices`: what waits for whom, and saying that somebody knows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.audit.trail import lines, read_line
from node.errors import Permanent
from tests.node.cli.test_deliveries import Site
from tests.node.deliver.conftest import Node
from tests.node.notices.conftest import HEMORRHAGE


@pytest.fixture
def site(node: Node) -> Iterator[Site]:
    yield Site(node.folder, node)


def test_notice_is_listed_acknowledged_once_and_audited(site: Site):
    site.node.add_result("pacs", critical=[HEMORRHAGE])
    (row,) = site.json("notices", "list")
    assert (row["state"], row["findings"]) == ("OPEN", [HEMORRHAGE])
    assert "name people in [[notices.recipients]]" in site.overread("notices", "list").stdout
    said = site.overread("notices", "acknowledge", row["reference"], "--by", "Dr. A")
    assert said.exit_code == 0 and "is acknowledged by Dr. A" in said.stdout
    again = site.overread("notices", "acknowledge", row["reference"].lower(), "--by", "Dr. B")
    assert "was acknowledged by Dr. A already" in again.stdout
    assert "ACKNOWLEDGED Dr. A" in site.overread("notices", "show", row["reference"]).stdout
    kept = [read_line(raw) for _, _, raw in lines(Path(site.folder) / "audit")]
    (line,) = [one.message for one in kept if one]
    assert "Critical result notice" in line and row["reference"] in line and 'UserID="Dr. A"' in line


def test_audit_verify_finds_a_changed_line(site: Site):
    with pytest.raises(Permanent, match="there is no audit trail"):
        raise site.overread("audit", "verify").exception or AssertionError
    site.node.add_result("pacs", critical=[HEMORRHAGE])
    (row,) = site.json("notices", "list")
    site.overread("notices", "acknowledge", row["reference"], "--by", "Dr. A")
    assert "1 messages follow each other" in site.overread("audit", "verify").stdout
    (path,) = (site.folder / "audit").glob("*.log")
    path.write_text(path.read_text().replace("Dr. A", "Dr. B"))
    ended = site.overread("audit", "verify")
    assert ended.exit_code == 1 and "line 1: was changed" in ended.stdout


def test_notice_that_is_not_there_is_one_clear_line(site: Site):
    with pytest.raises(Permanent, match="there is no notice 'AB'"):
        raise site.overread("notices", "show", "AB").exception or AssertionError
