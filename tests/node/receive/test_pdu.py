"""PDUs other than P-DATA-TF, read and written, and compared with pynetdicom's."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from node.receive import pdu
from node.receive.pdu import AnsweredContext, ContextResult, PduError, Role
from tests.node.receive.wire import CT, EXPLICIT, IMPLICIT, MR, associate_request, item

REQUEST = associate_request(
    [(1, CT, [EXPLICIT, IMPLICIT]), (3, MR, [IMPLICIT])],
    called="NODE",
    calling="MODALITY",
    user_items=item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + b"\1\0") + item(0x55, b"VERSION"),
)


def test_request_is_read() -> None:
    request = pdu.read_associate_request(REQUEST[6:])
    assert (request.called_ae_title, request.calling_ae_title) == ("NODE", "MODALITY")
    assert request.contexts == (
        pdu.ProposedContext(1, CT, (EXPLICIT, IMPLICIT)),
        pdu.ProposedContext(3, MR, (IMPLICIT,)),
    )
    assert request.roles == (Role(CT, scu=True, scp=False),)
    assert (request.maximum_length, request.implementation_version_name) == (65536, "VERSION")


def test_request_of_pynetdicom_is_read_the_same() -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(REQUEST)
    ours = pdu.read_associate_request(REQUEST[6:])
    assert ours.calling_ae_title == theirs.calling_ae_title.strip()
    assert [context.context_id for context in ours.contexts] == [c.context_id for c in theirs.presentation_context]


def test_accept_is_understood_by_pynetdicom() -> None:
    request = pdu.read_associate_request(REQUEST[6:])
    contexts = (
        AnsweredContext(1, ContextResult.ACCEPTANCE, CT, EXPLICIT),
        AnsweredContext(3, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, MR, IMPLICIT),
    )
    accept = A_ASSOCIATE_AC()
    accept.decode(pdu.write_associate_accept(request, contexts, (Role(CT, True, False),), 131072))
    assert [(c.context_id, c.result, c.transfer_syntax) for c in accept.presentation_context] == [
        (1, 0, EXPLICIT),
        (3, 3, IMPLICIT),
    ]
    assert accept.user_information.maximum_length == 131072
    (role,) = accept.user_information.role_selection.values()
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == (CT, 1, 0)


@pytest.mark.parametrize(
    "contexts",
    [[(2, CT, [EXPLICIT])], [(1, CT, [EXPLICIT]), (1, MR, [EXPLICIT])]],
    ids=["even", "doubled"],
)
def test_impossible_contexts_are_refused(contexts: list[tuple[int, str, list[str]]]) -> None:
    with pytest.raises(PduError):
        pdu.read_associate_request(associate_request(contexts)[6:])


@given(st.data())
def test_any_change_of_a_request_gives_a_request_or_a_pdu_error(data: st.DataObject) -> None:
    body = bytearray(REQUEST[6:])
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PduError):
        pdu.read_associate_request(bytes(body[: data.draw(st.integers(0, len(body)))]))
