"""PDUs are compared with pynetdicom's, which others wrote from the same tables."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RQ, A_RELEASE_RQ, P_DATA_TF

from node.deliver import upper_layer
from node.deliver.upper_layer import MalformedPdu, ProposedContext

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def decoded_request(contexts: list[ProposedContext]) -> A_ASSOCIATE_RQ:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(upper_layer.encode_associate_request("ARCHIVE", "OVERREAD", contexts))
    return pdu


def test_associate_request_reads_back_as_it_was_meant():
    pdu = decoded_request(upper_layer.propose([(SEGMENTATION, EXPLICIT), (SEGMENTATION, IMPLICIT)]))
    assert (pdu.called_ae_title, pdu.calling_ae_title) == ("ARCHIVE", "OVERREAD")
    assert pdu.application_context_name == "1.2.840.10008.3.1.1.1"
    assert [
        (context.context_id, context.abstract_syntax, list(context.transfer_syntax))
        for context in pdu.presentation_context
    ] == [(1, SEGMENTATION, [EXPLICIT]), (3, SEGMENTATION, [IMPLICIT])]
    assert pdu.user_information.maximum_length == upper_layer.RECEIVE_MAXIMUM_BYTES
    assert pdu.user_information.implementation_class_uid.startswith("2.25.")


def test_equal_pairs_share_one_context():
    contexts = upper_layer.propose([(SEGMENTATION, EXPLICIT)] * 3)
    assert contexts == [ProposedContext(1, SEGMENTATION, EXPLICIT)]


def test_128_contexts_are_the_most():
    assert upper_layer.propose([("1.2", f"1.{n}") for n in range(128)])[-1].context_id == 255
    with pytest.raises(ValueError, match="129"):
        upper_layer.propose([("1.2", f"1.{n}") for n in range(129)])


def test_ae_title_outside_ascii_is_not_encoded():
    with pytest.raises(UnicodeEncodeError):
        upper_layer.encode_associate_request("ÄRCHIV", "OVERREAD", upper_layer.propose([("1.2", "1.3")]))


def associate_accept(results: dict[int, int], maximum_length: int = 16384) -> bytes:
    """An A-ASSOCIATE-AC without its header, put together by hand from PS3.8 Table 9-17."""
    items = b"".join(
        b"\x21\x00"
        + (4 + 4 + len(EXPLICIT)).to_bytes(2, "big")
        + bytes((number, 0, result, 0))
        + b"\x40\x00"
        + len(EXPLICIT).to_bytes(2, "big")
        + EXPLICIT.encode()
        for number, result in results.items()
    )
    user = b"\x51\x00\x00\x04" + maximum_length.to_bytes(4, "big")
    return b"\x00\x01\x00\x00" + bytes(64) + items + b"\x50\x00" + len(user).to_bytes(2, "big") + user


def test_associate_accept_gives_results_and_maximum_length():
    accept = upper_layer.decode_associate_accept(associate_accept({1: 0, 3: 4}, 28672))
    assert accept.results == {1: 0, 3: 4}
    assert accept.maximum_length == 28672


def test_associate_accept_of_pynetdicom_is_read():
    body = associate_accept({1: 0})
    theirs = A_ASSOCIATE_AC()
    theirs.decode(b"\x02\x00" + len(body).to_bytes(4, "big") + body)
    assert upper_layer.decode_associate_accept(theirs.encode()[6:]).results == {1: 0}


def test_release_and_abort_are_what_pynetdicom_reads():
    A_RELEASE_RQ().decode(upper_layer.encode_release_request())
    abort = A_ABORT_RQ()
    abort.decode(upper_layer.encode_abort())
    assert abort.source == 0


def test_data_pdu_header_counts_its_own_overhead():
    fragment = b"12345678"
    header = upper_layer.DATA_HEADER.pack(4, len(fragment) + 6, len(fragment) + 2, 5, 0b10)
    pdu = P_DATA_TF()
    pdu.decode(header + fragment)
    (item,) = pdu.presentation_data_value_items
    assert (item.context_id, item.message_control_header_byte, item.data[1:]) == (5, "00000010", fragment)
    (pdv,) = upper_layer.decode_pdvs((header + fragment)[6:])
    assert (pdv.context_id, pdv.is_command, pdv.is_last, pdv.fragment) == (5, False, True, fragment)


@pytest.mark.parametrize(("maximum", "expected"), [(16384, 16378), (16385, 16378), (0, 131066), (1 << 30, 131066)])
def test_fragments_fit_into_the_peers_pdu_and_are_even(maximum: int, expected: int):
    assert upper_layer.fragment_bytes(maximum) == expected


def test_maximum_length_without_room_is_refused():
    with pytest.raises(MalformedPdu):
        upper_layer.fragment_bytes(7)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoders_fail_otherwise_than_by_malformed_pdu(noise: bytes):
    for decode in (upper_layer.decode_associate_accept, upper_layer.decode_pdvs):
        for body in (noise, bytes(68) + noise):
            with contextlib.suppress(MalformedPdu):
                decode(body)
