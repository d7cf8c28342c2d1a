"""Who may send by HTTP: tokens, certificates, addresses; and TLS."""

import hashlib
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset

from node.settings import SettingsError, load_settings
from node.store import tables
from node.web.access import Access, Caller
from node.web.reception import RequestRefused
from node.web_settings import WebClient
from tests.certificates import make_authority
from tests.node.web.conftest import WebUnderTest, compose, part10

Serve = Callable[..., WebUnderTest]
TOKEN = "c0ffee" * 6
LOOPBACK = ip_network("127.0.0.0/8")


def refused(access: Access, caller: Caller) -> tuple[int, str]:
    with pytest.raises(RequestRefused) as caught:
        access.identify(caller)
    return caught.value.status, caught.value.code


def test_bearer_token_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    access = Access(
        [WebClient(ae_title="CT1", bearer_token_file=file), WebClient(ae_title="CT2", bearer_token_env="T")],
        False,
        {"T": "other" * 5},
    )
    assert access.identify(Caller("10.0.0.1", "", f"Bearer {TOKEN}")) == "CT1"
    assert access.identify(Caller("10.0.0.1", "", "bearer  " + "other" * 5)) == "CT2"
    for wrong in ("", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
        assert refused(access, Caller("10.0.0.1", "", wrong)) == (401, "bearer-token")
    file.write_text("renewed" * 4)
    assert access.identify(Caller("10.0.0.1", "", "Bearer " + "renewed" * 4)) == "CT1"


def test_token_that_is_missing_or_short_opens_nothing(tmp_path: Path) -> None:
    clients = [
        WebClient(ae_title="A", bearer_token_file=tmp_path / "absent"),
        WebClient(ae_title="B", bearer_token_env="EMPTY"),
        WebClient(ae_title="C", bearer_token_env="SHORT"),
    ]
    access = Access(clients, False, {"EMPTY": "", "SHORT": "secret"})
    for shown in ("Bearer ", "Bearer secret"):
        assert refused(access, Caller("10.0.0.1", "", shown)) == (401, "bearer-token")


def test_certificates_and_addresses() -> None:
    digest = "ab" * 32
    clients = [
        WebClient(ae_title="A", certificates=(digest,), addresses=(ip_network("10.1.0.0/16"),)),
        WebClient(ae_title="B", addresses=(ip_network("10.2.0.0/16"),), bearer_token_env="T"),
    ]
    access = Access(clients, False, {"T": TOKEN})
    assert access.identify(Caller("10.1.2.3", digest)) == "A"
    assert access.identify(Caller("10.2.2.3", "", f"Bearer {TOKEN}")) == "B"
    assert refused(access, Caller("10.2.2.3")) == (401, "bearer-token")
    assert refused(access, Caller("10.1.2.3", "cd" * 32)) == (403, "unknown-client")
    assert refused(access, Caller("10.3.2.3", digest, f"Bearer {TOKEN}")) == (403, "unknown-client")


def test_wrong_credentials_are_not_taken_for_none() -> None:
    access = Access([], True)
    assert access.identify(Caller("10.0.0.1")) == "STOW-RS"
    assert refused(access, Caller("10.0.0.1", "", "Bearer x"))[0] == 403


def test_token_over_http_and_never_in_the_log(
    serve: Serve, images: list[Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    client = WebClient(ae_title="CT1", bearer_token_file=tmp_path / "token", addresses=(LOOPBACK,))
    web = serve(clients=(client,), allow_anonymous=False)
    wrong = web.post([part10(images[0])], Authorization="Bearer guessed-" + TOKEN)
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, 'Bearer realm="overread"')
    assert web.post([part10(images[0])]).status_code == 401
    assert web.rows() == []
    assert web.post([part10(images[0])], Authorization=f"Bearer {TOKEN}").status_code == 200
    assert [row.calling_ae_title for row in web.rows(tables.series)] == ["CT1"]
    assert httpx.get(f"{web.url}/health", trust_env=False, timeout=60).status_code == 200
    assert TOKEN not in "".join(capfd.readouterr())


def test_mutual_tls_and_a_renewed_certificate(serve: Serve, images: list[Dataset], tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    server, server_key = authority.issue("server")
    known, known_key = authority.issue("known")
    unknown, unknown_key = authority.issue("unknown")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(known.read_text())).hexdigest()
    web = serve(
        tls_certificate=str(server),
        tls_key=str(server_key),
        tls_client_authorities=str(authority.ca),
        clients=(WebClient(ae_title="CT1", certificates=(digest,)),),
        allow_anonymous=False,
    )

    def post(certificate: tuple[Path, Path] | None) -> int:
        context = ssl.create_default_context(cafile=str(authority.ca))
        if certificate:
            context.load_cert_chain(*certificate)
        content, content_type = compose([part10(images[0])])
        with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
            url = f"https://127.0.0.1:{web.port}/studies"
            return client.post(url, content=content, headers={"Content-Type": content_type}).status_code

    assert post((known, known_key)) == 200
    assert post((unknown, unknown_key)) == 403
    with pytest.raises(httpx.TransportError):
        post(None)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{web.url}/health", trust_env=False, timeout=60)
    server_key.write_bytes(unknown_key.read_bytes())
    server.write_bytes(unknown.read_bytes())
    assert post((known, known_key)) == 200
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(known, known_key)
    with (
        socket.create_connection(("127.0.0.1", web.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        subject = dict(pair[0] for pair in secured.getpeercert()["subject"])  # type: ignore[index]
    assert subject["commonName"] == "unknown"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("enabled = true", "nobody may send"),
        ('tls_certificate = "a.pem"', "tls_certificate and tls_key belong together"),
        ('clients = [{ ae_title = "A" }]', "nothing tells this client from others"),
        ('clients = [{ ae_title = "A", certificates = ["' + "ab" * 32 + '"] }]', "need tls_client_authorities"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[web]\n" + table)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert said in str(caught.value)


def test_server_for_figures_alone_needs_no_clients_and_takes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[web]\nenabled = true\nmetrics = true")
    web = load_settings(file).web
    access = Access(web.clients, web.allow_anonymous)
    assert refused(access, Caller("127.0.0.1", "", f"Bearer {TOKEN}")) == (403, "unknown-client")


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[web]\nclients = [{ ae_title = "A", bearer_token_file = "a.token" }]')
    assert load_settings(file).web.clients[0].bearer_token_file == tmp_path / "a.token"
