"""TLS with client certificates towards dcmtk, and what is said when a certificate is not right."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.deliver.storage_scu import send
from node.deliver.transport import Unreachable
from node.destination_settings import Tls
from node.errors import Permanent
from node.settings import Destination
from tests.certificates import Authority, make_authority
from tests.counterparts import StoreScp, storescp
from tests.faulty_archive import FaultyArchive

DestinationAt = Callable[..., Destination]
pytestmark = pytest.mark.counterpart("dcmtk")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secure_scp(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreScp]:
    """storescp that wants a certificate of `authority` from whoever sends."""
    certificate, key = authority.issue("archive")
    options = ["+tls", str(key), str(certificate), "+cf", str(authority.ca), "--require-peer-cert"]
    with storescp(tmp_path_factory.mktemp("scp") / "peer", *options) as peer:
        yield peer


def tls(authority: Authority, name: str = "node", ca: Path | None = None, **more: object) -> Tls:
    certificate, key = authority.issue(name)
    return Tls(ca_file=ca or authority.ca, certificate_file=certificate, key_file=key, **more)


def test_objects_arrive_over_tls_with_a_client_certificate(
    authority: Authority, secure_scp: StoreScp, result_objects: list[Path], destination_at: DestinationAt
):
    before = len(secure_scp.received())
    send(destination_at(secure_scp.port, "STORESCP", tls=tls(authority)), "OVERREAD", result_objects, 60)
    secure_scp.wait_for(before + 2)


def test_archive_that_does_not_know_our_certificate_is_said_so(
    tmp_path: Path,
    authority: Authority,
    secure_scp: StoreScp,
    result_objects: list[Path],
    destination_at: DestinationAt,
):
    stranger = make_authority(tmp_path / "other", "Other CA")
    secured = tls(stranger, ca=authority.ca)
    with pytest.raises(Unreachable, match=r"does not take our certificate|closed the TLS connection"):
        send(destination_at(secure_scp.port, "STORESCP", tls=secured), "OVERREAD", result_objects, 60)


def test_archive_of_another_authority_is_not_trusted(
    tmp_path: Path,
    authority: Authority,
    secure_scp: StoreScp,
    result_objects: list[Path],
    destination_at: DestinationAt,
):
    stranger = make_authority(tmp_path / "other", "Other CA")
    secured = tls(authority, ca=stranger.ca)
    with pytest.raises(Unreachable, match=r"not trusted .*set tls\.ca_file"):
        send(destination_at(secure_scp.port, "STORESCP", tls=secured), "OVERREAD", result_objects, 60)


def test_certificate_for_another_name_is_not_trusted(
    authority: Authority, secure_scp: StoreScp, result_objects: list[Path], destination_at: DestinationAt
):
    secured = tls(authority, server_name="archive.example.org")
    with pytest.raises(Unreachable, match=r"tls\.server_name"):
        send(destination_at(secure_scp.port, "STORESCP", tls=secured), "OVERREAD", result_objects, 60)


def test_expired_certificate_is_not_trusted(
    tmp_path: Path, authority: Authority, result_objects: list[Path], destination_at: DestinationAt
):
    certificate, key = authority.issue("expired", days=-1)
    options = ["+tls", str(key), str(certificate), "+cf", str(authority.ca)]
    with (
        storescp(tmp_path / "peer", *options) as peer,
        pytest.raises(Unreachable, match=r"expired.*have it renewed"),
    ):
        send(destination_at(peer.port, "STORESCP", tls=tls(authority)), "OVERREAD", result_objects, 60)


def test_archive_without_tls_is_said_so(
    authority: Authority, result_objects: list[Path], destination_at: DestinationAt
):
    with FaultyArchive() as archive, pytest.raises(Unreachable, match="TLS"):
        send(destination_at(archive.port, tls=tls(authority)), "OVERREAD", result_objects, 0.5)


@pytest.mark.parametrize("broken", ["ca_file", "certificate_file"])
def test_files_that_are_no_certificates_are_permanent_and_named(
    tmp_path: Path, authority: Authority, result_objects: list[Path], destination_at: DestinationAt, broken: str
):
    note = tmp_path / "note.pem"
    note.write_text("no certificate")
    secured = tls(authority).model_copy(update={broken: note})
    with pytest.raises(Permanent, match=rf"tls\.{broken} .*note\.pem.*: not certificates or keys"):
        send(destination_at(1, tls=secured), "OVERREAD", result_objects, 3)


def test_certificate_without_key_is_refused_by_the_settings(tmp_path: Path):
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate_file=tmp_path / "c.pem")


def test_tls_is_at_least_1_2(authority: Authority):
    from node.deliver.tls import client_tls

    context = client_tls(tls(authority), "127.0.0.1", "pacs").context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2 and context.check_hostname
