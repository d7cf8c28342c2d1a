"""The parser without a socket: however the bytes are cut, the same events; whatever the bytes are, no other error."""

import contextlib
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.receive.parser import (
    MAXIMUM_COMMAND_BYTES,
    CommandSet,
    ControlPdu,
    DataFragment,
    Event,
    PduParser,
)
from node.receive.pdu import AbortReason, PduError, PduType
from tests.node.receive.wire import (
    ABORT,
    CT,
    EXPLICIT,
    RELEASE,
    associate_request,
    command,
    message,
    p_data,
    pdu,
    pdv,
)

MAXIMUM = 16384
Kept = tuple[str, int, bytes, bool]


def feed(parser: PduParser, content: bytes) -> list[Event]:
    """Give bytes to a parser as a socket would: as much as fits each time."""
    events: list[Event] = []
    while content:
        room = parser.writable()
        part, content = content[: len(room)], content[len(room) :]
        room[: len(part)] = part
        events += parser.received(len(part))
    parser.writable()  # raises what is wrong after the last event
    return events


def keep(events: list[Event]) -> list[Kept]:
    """Events with copies of their bytes."""
    kept: list[Kept] = []
    for event in events:
        match event:
            case ControlPdu(kind, body):
                kept.append(("control", int(kind), body, True))
            case CommandSet(context_id, content):
                kept.append(("command", context_id, content, True))
            case DataFragment(context_id, fragment, is_last):
                kept.append(("data", context_id, bytes(fragment), is_last))
    return kept


STREAM = (
    associate_request([(1, CT, [EXPLICIT])])
    + message(1, command(1, 1, CT, "1.2.3"), b"x" * 50000, fragment_bytes=15000)
    + p_data(
        pdv(3, b"head", is_command=True, is_last=False),
        pdv(3, b"er", is_command=True, is_last=True),
        pdv(3, b"body", is_command=False, is_last=True),
    )
    + RELEASE
)


def test_events_of_a_whole_association() -> None:
    kept = keep(feed(PduParser(MAXIMUM), STREAM))
    assert [(kind, number) for kind, number, _, _ in kept] == [
        ("control", PduType.ASSOCIATE_RQ),
        ("command", 1),
        *[("data", 1)] * 4,
        ("command", 3),
        ("data", 3),
        ("control", PduType.RELEASE_RQ),
    ]
    assert [last for kind, _, _, last in kept if kind == "data"] == [False, False, False, True, True]
    assert b"".join(content for kind, number, content, _ in kept if (kind, number) == ("data", 1)) == b"x" * 50000
    assert kept[6][2] == b"header"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_bytes_arrive(cuts: list[int]) -> None:
    whole = keep(feed(PduParser(MAXIMUM), STREAM))
    parser, pieces = PduParser(MAXIMUM), []
    places = [0, *sorted(cuts), len(STREAM)]
    for first, last in pairwise(places):
        pieces += keep(feed(parser, STREAM[first:last]))
        parser.reclaim()
    assert pieces == whole


def test_between_messages() -> None:
    parser = PduParser(MAXIMUM)
    for byte in STREAM:
        feed(parser, bytes([byte]))
    assert parser.is_between_messages
    feed(parser, STREAM[:3])
    assert not parser.is_between_messages


def test_views_hold_until_reclaim_and_tight_buffer_recovers() -> None:
    parser = PduParser(MAXIMUM)
    content = p_data(pdv(1, b"a" * 16000, is_command=False, is_last=False))
    views: list[memoryview] = []
    while not parser.is_tight:
        views += [event.fragment for event in feed(parser, content) if isinstance(event, DataFragment)]
    assert all(bytes(view) == b"a" * 16000 for view in views)
    feed(parser, content[:100])
    parser.reclaim()
    assert not parser.is_tight
    (event,) = feed(parser, content[100:])
    assert isinstance(event, DataFragment) and bytes(event.fragment) == b"a" * 16000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", AbortReason.UNRECOGNIZED_PDU),
        (b"\x16\x03\x01\x02\x00\x01\x00", AbortReason.UNRECOGNIZED_PDU),
        (b"\4\0\xff\xff\xff\xff", AbortReason.INVALID_PARAMETER_VALUE),
        (b"\1\0\xff\xff\xff\xff", AbortReason.INVALID_PARAMETER_VALUE),
        (b"\7\0\x7f\0\0\0", AbortReason.INVALID_PARAMETER_VALUE),
        (pdu(4, b"\0\0\0"), AbortReason.INVALID_PARAMETER_VALUE),
        (pdu(4, b"\0\0\0\1\1\2"), AbortReason.INVALID_PARAMETER_VALUE),
        (pdu(4, b"\0\0\0\x09\1\2abc"), AbortReason.INVALID_PARAMETER_VALUE),
    ],
    ids=["http", "tls", "4-gib-data", "4-gib-request", "long-abort", "cut-header", "pdv-of-one", "pdv-too-long"],
)
def test_broken_pdus_are_refused_at_once(content: bytes, reason: AbortReason) -> None:
    with pytest.raises(PduError) as caught:
        feed(PduParser(MAXIMUM), content)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "values",
    [
        [pdv(1, b"a", is_command=False, is_last=False), pdv(3, b"b", is_command=False, is_last=True)],
        [pdv(1, b"a", is_command=False, is_last=False), pdv(1, b"b", is_command=True, is_last=True)],
        [pdv(1, b"a", is_command=True, is_last=False), pdv(3, b"b", is_command=True, is_last=True)],
        [pdv(1, b"a", is_command=True, is_last=False), pdv(1, b"b", is_command=False, is_last=True)],
    ],
)
def test_messages_are_not_mixed(values: list[bytes]) -> None:
    for content in (p_data(*values), b"".join(map(p_data, values))):
        with pytest.raises(PduError):
            feed(PduParser(MAXIMUM), content)


def test_fragments_of_a_data_set_share_pdus_or_have_their_own() -> None:
    parts = [b"first", b"second", b"third", b"last"]
    first, second, third, last = (pdv(1, part, is_command=False, is_last=part == b"last") for part in parts)
    wanted = [("data", 1, part, part == b"last") for part in parts]
    for content in (
        p_data(first) + p_data(second, third) + p_data(last),
        p_data(first) + p_data(second) + p_data(third, last),
        p_data(first, second, third, last),
    ):
        parser = PduParser(MAXIMUM)
        assert keep(feed(parser, content)) == wanted
        assert parser.is_between_messages


def test_what_is_complete_comes_before_the_error() -> None:
    parser = PduParser(MAXIMUM)
    content = p_data(pdv(1, b"rest", is_command=False, is_last=True)) + b"\x99" + bytes(5)
    parser.writable()[: len(content)] = content
    assert keep(parser.received(len(content))) == [("data", 1, b"rest", True)]
    with pytest.raises(PduError, match="unknown"):
        parser.writable()


def test_command_set_is_bounded() -> None:
    parser = PduParser(MAXIMUM)
    piece = p_data(pdv(1, bytes(MAXIMUM_COMMAND_BYTES // 2), is_command=True, is_last=False))
    feed(parser, piece + piece)
    with pytest.raises(PduError, match="longer than"):
        feed(parser, p_data(pdv(1, b"x", is_command=True, is_last=False)))


@st.composite
def hostile_streams(draw: st.DrawFn) -> bytes:
    """Streams that begin right and go wrong somewhere."""
    parts = st.sampled_from([STREAM, RELEASE, ABORT, p_data(), p_data(pdv(1, b"", is_command=False, is_last=True))])
    stream = bytearray(b"".join(draw(st.lists(parts, max_size=3))))
    for _ in range(draw(st.integers(0, 6))):
        if stream:
            stream[draw(st.integers(0, min(len(stream) - 1, 400)))] = draw(st.integers(0, 255))
    return bytes(stream) + draw(st.binary(max_size=64))


@given(hostile_streams())
@settings(max_examples=20_000 if os.environ.get("OVERREAD_SOAK") else 300, deadline=None)
def test_any_bytes_give_events_or_a_pdu_error(stream: bytes) -> None:
    parser = PduParser(MAXIMUM)
    with contextlib.suppress(PduError):
        for at in range(0, len(stream), 5000):
            feed(parser, stream[at : at + 5000])
            parser.reclaim()
