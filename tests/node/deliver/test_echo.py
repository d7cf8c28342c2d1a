from collections.abc import Callable
from pathlib import Path

import pytest

from node.deliver.echo import echo
from node.errors import Permanent, Transient
from node.settings import Destination
from tests.counterparts import free_port, orthanc, storescp
from tests.faulty_archive import FaultyArchive

DestinationAt = Callable[..., Destination]


def test_archive_that_is_there_answers_success(destination_at: DestinationAt):
    with FaultyArchive() as archive:
        answer = echo(destination_at(archive.port), "OVERREAD", 60)
    assert answer.status == 0x0000
    assert answer.associate_seconds > 0 and answer.echo_seconds > 0


def test_archive_that_is_away_is_transient(destination_at: DestinationAt):
    with pytest.raises(Transient, match="is the archive running"):
        echo(destination_at(free_port()), "OVERREAD", 60)


def test_wrong_called_ae_title_is_permanent(destination_at: DestinationAt):
    with (
        FaultyArchive(ae_title="ARCHIVE", check=True) as archive,
        pytest.raises(Permanent, match="called AE title not recognised"),
    ):
        echo(destination_at(archive.port, ae_title="OTHER"), "OVERREAD", 60)


@pytest.mark.counterpart("orthanc")
@pytest.mark.counterpart("dcmtk")
def test_orthanc_and_storescp_answer(tmp_path: Path, destination_at: DestinationAt):
    with orthanc(tmp_path / "orthanc") as peer:
        assert echo(destination_at(peer.dicom_port, peer.ae_title), "OVERREAD", 60).status == 0
    with storescp(tmp_path / "storescp") as scp:
        assert echo(destination_at(scp.port, scp.ae_title), "OVERREAD", 60).status == 0
