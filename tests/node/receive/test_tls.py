"""The TLS port: who gets in, certificates that are renewed, and handshakes that never end."""

import hashlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pydicom
import pytest

from node.receive.tls import ServerTls, TlsError
from node.settings import Peer
from tests.counterparts import wait_until
from tests.node.receive.conftest import Receiver
from tests.node.receive.test_interop import as_sent, dcmtk_program, received
from tests.node.receive.wire import CT, EXPLICIT, Client, Encoded, associate_request
from tests.phantoms import write_series

Start = Callable[..., Receiver]
pytestmark = pytest.mark.counterpart("openssl")  # makes the certificates


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate and its key."""

    certificate: Path
    key: Path

    @property
    def digest(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()


def make_identity(folder: Path, name: str) -> Identity:
    folder.mkdir(exist_ok=True)
    made = Identity(folder / f"{name}.pem", folder / f"{name}.key")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    place = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subject = ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *curve, *place, *subject], check=True, capture_output=True)
    return made


@pytest.fixture
def node(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "certificates", "node")


@pytest.fixture
def modality(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "certificates", "modality")


def settings(identity: Identity, **more: Any) -> dict[str, Any]:
    given = {"tls_certificate": str(identity.certificate), "tls_key": str(identity.key)}
    return {"tls_port": 0, **given, **{f"tls_{key}": str(value) for key, value in more.items()}}


def connect(receiver: Receiver, trusted: Identity, shown: Identity | None = None) -> Client:
    context = ssl.create_default_context(cafile=str(trusted.certificate))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    port = receiver.scp.bound_tls_port
    assert port is not None
    client = Client(port)
    client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
    return client


def test_object_arrives_over_tls(receive: Start, images: list[Encoded], node: Identity) -> None:
    receiver = receive(**settings(node))
    with connect(receiver, node) as client:
        client.associate([(1, CT, [EXPLICIT])])
        assert client.store(images[0]) == 0
        client.release()
    with receiver.associated() as plain:
        assert plain.store(images[1]) == 0
    assert receiver.count() == 2


def test_old_versions_and_weak_ciphers_are_refused(receive: Start, node: Identity) -> None:
    receiver = receive(**settings(node, minimum_version="1.3"))
    context = ssl.create_default_context(cafile=str(node.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", receiver.scp.bound_tls_port or 0), timeout=60) as plain,
        pytest.raises(OSError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_mutual_tls_wants_a_certificate(receive: Start, node: Identity, modality: Identity) -> None:
    receiver = receive(**settings(node, client_authorities=modality.certificate))
    with connect(receiver, node, modality) as client:
        client.associate([(1, CT, [EXPLICIT])])
    for shown in (None, node):
        with pytest.raises((OSError, AssertionError)), connect(receiver, node, shown) as client:
            client.associate([(1, CT, [EXPLICIT])])


def test_certificate_is_renewed_without_a_restart(receive: Start, tmp_path: Path, node: Identity) -> None:
    receiver = receive(**settings(node))
    with connect(receiver, node) as client:
        client.associate([(1, CT, [EXPLICIT])])
    renewed = make_identity(tmp_path / "renewed", "node")
    shutil.copy(renewed.certificate, node.certificate)  # only half of it yet: the one before stays in use
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(receiver, renewed)
    shutil.copy(renewed.key, node.key)
    with connect(receiver, renewed) as client:
        client.associate([(1, CT, [EXPLICIT])])


def test_handshake_that_never_ends_blocks_nobody(receive: Start, images: list[Encoded], node: Identity) -> None:
    receiver = receive(**settings(node), acse_timeout_seconds=1)
    port = receiver.scp.bound_tls_port or 0
    silent = [Client(port) for _ in range(20)]

    def stores() -> bool:
        with suppress(OSError, AssertionError), connect(receiver, node) as client:  # too slow itself for that second
            client.associate([(1, CT, [EXPLICIT])])
            return client.store(images[0]) == 0
        return False

    wait_until(stores, "good client that is served")
    assert all(client.is_closed_within(60) for client in silent)
    with Client(port) as plain:  # DICOM without TLS on the port for TLS
        plain.send(associate_request([(1, CT, [EXPLICIT])]))
        assert plain.is_closed_within(60)


@pytest.mark.parametrize(
    ("change", "admitted"),
    [
        ({}, True),
        ({"ae_title": "ANOTHER"}, False),
        ({"addresses": (ip_network("127.0.0.0/8"),)}, True),
        ({"certificates": ("0" * 64,)}, False),
    ],
)
def test_peer_is_known_by_title_address_and_certificate(
    receive: Start, node: Identity, modality: Identity, change: dict[str, Any], admitted: bool
) -> None:
    peer = Peer(**{"ae_title": "TESTER", "certificates": (modality.digest,), **change})
    receiver = receive(**settings(node, client_authorities=modality.certificate), peers=(peer,))
    with connect(receiver, node, modality) as client:
        client.send(associate_request([(1, CT, [EXPLICIT])]))
        assert client.read_pdu()[0] == (2 if admitted else 3)
    with Client(receiver.port) as plain:  # the same title without its certificate
        plain.send(associate_request([(1, CT, [EXPLICIT])]))
        assert plain.read_pdu()[0] == 3


def test_address_of_no_peer_is_closed_at_once(receive: Start) -> None:
    receiver = receive(peers=(Peer(ae_title="TESTER", addresses=(ip_network("192.0.2.0/24"),)),))
    with Client(receiver.port) as client:
        assert client.is_closed_within(60)


def test_unusable_files_are_an_error(tmp_path: Path, node: Identity, modality: Identity) -> None:
    with pytest.raises(TlsError, match=r"node\.pem and modality\.key"):
        ServerTls(node.certificate, modality.key)
    with pytest.raises(TlsError, match="absent"):
        ServerTls(tmp_path / "absent", node.key)
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(TlsError, match=r"empty\.pem"):
        ServerTls(node.certificate, node.key, tmp_path / "empty.pem")


def run_dcmtk(name: str, receiver: Receiver, *options: object, code: int = 0) -> None:
    command = [str(dcmtk_program(name)), "-aec", "OVERREAD", *map(str, options[:-1])]
    command += ["127.0.0.1", str(receiver.scp.bound_tls_port), *map(str, options[-1] or [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.counterpart("dcmtk")
def test_echoscu_over_mutual_tls(receive: Start, node: Identity, modality: Identity) -> None:
    receiver = receive(**settings(node, client_authorities=modality.certificate))
    shown = ["--enable-tls", modality.key, modality.certificate, "--add-cert-file", node.certificate]
    run_dcmtk("echoscu", receiver, *shown, None)


@pytest.mark.counterpart("dcmtk")
@pytest.mark.parametrize("is_mutual", [False, True], ids=["anonymous", "client-certificate"])
def test_storescu_sends_images_over_tls(
    receive: Start, tmp_path: Path, node: Identity, modality: Identity, is_mutual: bool
) -> None:
    """Images larger than a TLS record, and than the receiver's buffer."""
    more = {"client_authorities": modality.certificate} if is_mutual else {}
    receiver = receive(**settings(node, **more))
    paths = write_series(tmp_path / "series", shape=(4, 512, 512), modality="CT")
    paths += write_series(tmp_path / "large", shape=(1, 900, 900), modality="CT")
    shown = ["--enable-tls", modality.key, modality.certificate] if is_mutual else ["--anonymous-tls"]
    run_dcmtk("storescu", receiver, *shown, "--add-cert-file", node.certificate, paths)
    assert received(receiver) == {str(pydicom.dcmread(path).SOPInstanceUID): as_sent(path) for path in paths}


@pytest.mark.counterpart("dcmtk")
def test_storescu_without_a_certificate_is_turned_away(
    receive: Start, tmp_path: Path, node: Identity, modality: Identity
) -> None:
    receiver = receive(**settings(node, client_authorities=modality.certificate))
    paths = write_series(tmp_path / "series", shape=(1, 16, 16), modality="CT")
    run_dcmtk("storescu", receiver, "--anonymous-tls", "--add-cert-file", node.certificate, paths, code=1)
    assert receiver.count() == 0


def test_plain_dicom_on_the_tls_port_is_closed(receive: Start, images: list[Encoded], node: Identity) -> None:
    receiver = receive(**settings(node))
    port = receiver.scp.bound_tls_port
    assert port is not None
    with Client(port) as plain:
        plain.send(associate_request([(1, CT, [EXPLICIT])]))
        assert plain.is_closed_within(60)
    with connect(receiver, node) as client:
        client.associate([(1, CT, [EXPLICIT])])
        assert client.store(images[0]) == 0
