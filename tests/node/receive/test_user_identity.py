"""User identity negotiation (PS3.7 D.3.3.7), asked by pynetdicom and dcmtk."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.settings import Peer
from tests.node.receive.conftest import Receiver
from tests.node.receive.test_interop import dcmtk_program
from tests.node.receive.wire import IMPLICIT, VERIFICATION, Client, associate_request, item

Start = Callable[..., Receiver]
ACCEPTED, REJECTED = "accepted", (1, 2, 1)


def identity(kind: int = 2, name: bytes = b"ct1", passcode: bytes = b"x", response: bool = False) -> Any:
    made = UserIdentityNegotiation()
    made.user_identity_type = kind
    made.primary_field = name
    if kind == 2:
        made.secondary_field = passcode
    made.positive_response_requested = response
    return made


def associate(receiver: Receiver, user: Any = None, ae_title: str = "CT1") -> tuple[Any, Any]:
    """`ACCEPTED` or the numbers of the rejection, and the response to the user identity."""
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(Verification)
    received: list[Any] = []  # an answer that comes before pynetdicom waits for it is not in `association`
    association = entity.associate(
        "127.0.0.1",
        receiver.port,
        ae_title="OVERREAD",
        ext_neg=[user] if user else None,
        evt_handlers=[(evt.EVT_PDU_RECV, lambda event: received.append(event.pdu))],
    )
    try:
        if association.is_established:
            assert association.send_c_echo().Status == 0x0000
            answers = [one for one in association.acceptor.user_information if hasattr(one, "server_response")]
            return ACCEPTED, answers[0].server_response if answers else None
        (rejection,) = received
        assert isinstance(rejection, A_ASSOCIATE_RJ)
        return (rejection.result, rejection.source, rejection.reason_diagnostic), None
    finally:
        if association.is_established:
            association.release()


def test_identity_that_nobody_asks_for_is_ignored(receive: Start) -> None:
    receiver = receive()
    for kind in (1, 2, 3, 4, 5):
        assert associate(receiver, identity(kind, response=True)) == (ACCEPTED, None)


def test_name_and_passcode_of_a_peer(receive: Start, tmp_path: Path) -> None:
    file = tmp_path / "ct1.password"
    file.write_text("sésame\n", encoding="utf-8")
    receiver = receive(peers=(Peer(ae_title="CT1", user="ct1", password_file=file), Peer(ae_title="MR1")))
    right = {"name": b"ct1", "passcode": "sésame".encode()}
    assert associate(receiver, identity(2, **right)) == (ACCEPTED, None)
    assert associate(receiver, identity(2, **right, response=True)) == (ACCEPTED, b"")
    assert associate(receiver, ae_title="MR1") == (ACCEPTED, None)
    assert associate(receiver, identity(2, response=True), ae_title="MR1") == (ACCEPTED, None)
    wrong = (
        None,
        identity(2, b"ct1", b"guess"),
        identity(2, b"other", "sésame".encode()),
        identity(1, b"ct1"),
        identity(3, b"ct1"),
    )
    for user in wrong:
        assert associate(receiver, user)[0] == REJECTED
    file.write_text("renewed")
    assert associate(receiver, identity(2, b"ct1", b"renewed"))[0] == ACCEPTED
    file.unlink()
    for user in (identity(2, b"ct1", b"renewed"), identity(2, b"ct1", b" ")):
        assert associate(receiver, user)[0] == REJECTED


def test_name_alone_where_the_peer_has_no_passcode(receive: Start) -> None:
    receiver = receive(peers=(Peer(ae_title="CT1", user="ct1"),))
    assert associate(receiver, identity(1, b"ct1", response=True)) == (ACCEPTED, b"")
    assert associate(receiver, identity(1, b"ct2"))[0] == REJECTED


@pytest.mark.parametrize("value", [b"", b"\2", b"\2\0\0\xff", b"\2\1\0\3abc\0\4de"])
def test_broken_item_is_aborted(receive: Start, value: bytes) -> None:
    receiver = receive()
    with Client(receiver.port) as client:
        client.send(associate_request([(1, VERIFICATION, [IMPLICIT])], user_items=item(0x58, value)))
        kind, body = client.read_pdu()
        assert (kind, body[3]) == (7, 6)


@pytest.mark.counterpart("dcmtk")
def test_dcmtk_gives_its_name_and_gets_its_response(receive: Start, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sesame")
    receiver = receive(peers=(Peer(ae_title="CT1", user="ct1", password_file=tmp_path / "password"),))

    dicom = get_testdata_file("CT_small.dcm")

    def send(password: str) -> int:
        options = ["-aet", "CT1", "-aec", "OVERREAD", "--user", "ct1", "--password", password, "--pos-response"]
        command = [str(dcmtk_program("storescu")), *options, "127.0.0.1", str(receiver.port), str(dicom)]
        return subprocess.run(command, capture_output=True, timeout=180, check=False).returncode

    assert send("sesame") == 0 and receiver.count() == 1
    assert send("wrong") != 0
