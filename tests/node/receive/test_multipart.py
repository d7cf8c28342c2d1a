"""The parser of multipart/related: every split, every malformation, and whatever Hypothesis thinks of.

With `OVERREAD_SOAK` Hypothesis looks for much longer.
"""

import os
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.receive.multipart import (
    MAXIMUM_HEADER_BYTES,
    MAXIMUM_PASSED_OVER_BYTES,
    MultipartError,
    MultipartParser,
    PartBegins,
    PartData,
    PartEnds,
)

EXAMPLES = 20_000 if os.environ.get("OVERREAD_SOAK") else 150
Part = tuple[dict[str, str], bytes]


def parse(chunks: Iterable[bytes], boundary: str = "B", maximum_parts: int = 100) -> list[Part]:
    """All parts of a body; the events are checked for their order on the way."""
    parser = MultipartParser(boundary, maximum_parts)
    parts: list[Part] = []
    content: list[bytes] | None = None
    for chunk in chunks:
        for event in parser.feed(chunk):
            match event:
                case PartBegins(headers):
                    assert content is None
                    parts.append((dict(headers), b""))
                    content = []
                case PartData(data):
                    assert content is not None and len(data) > 0
                    content.append(bytes(data))
                case PartEnds():
                    assert content is not None
                    parts[-1] = (parts[-1][0], b"".join(content))
                    content = None
    parser.close()
    return parts


def compose(
    contents: Iterable[bytes], boundary: str = "B", headers: str = "Content-Type: application/dicom\r\n"
) -> bytes:
    body = b"".join(f"\r\n--{boundary}\r\n{headers}\r\n".encode() + content for content in contents)
    return body[2:] + f"\r\n--{boundary}--\r\n".encode()


DICOM = {"content-type": "application/dicom"}
# Contents that look like delimiters, and end in the middle of one.
TRICKY = [
    b"",
    b"\r\n",
    b"\r\n-",
    b"\r\n--",
    b"\r\n--C",
    b"x--B",
    b"\n--B\r\n",
    b"\r\r\n--A",
    b"\0" * 300 + b"\r",
    b"\r\n" * 9,
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_split_everywhere(size: int) -> None:
    body = compose(TRICKY)
    assert parse(body[at : at + size] for at in range(0, len(body), size)) == [(DICOM, one) for one in TRICKY]


def test_split_once_at_every_offset() -> None:
    body = b"preamble\r\n" + compose(TRICKY, "a-boundary") + b"epilogue"
    for at in range(len(body) + 1):
        assert parse([body[:at], body[at:]], "a-boundary") == [(DICOM, one) for one in TRICKY], at


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n--B\r\n\r\nX\r\n--B--",
        b"--B\r\n\r\nX\r\n--B--",
        b"This is a preamble.\r\n\r\n--B\r\n\r\nX\r\n--B--\r\nand an epilogue\r\n--B\r\n\r\nnot a part",
        b"--B \t \r\n\r\nX\r\n--B-- \t",
        b"x--B\r\n--B\r\n\r\nX\r\n--B--\r\n",
    ],
)
def test_what_surrounds_the_parts(body: bytes) -> None:
    assert parse([body]) == [({}, b"X")]


def test_headers() -> None:
    block = "Content-Type: application/dicom;\r\n transfer-syntax=1.2\r\nX-Empty:\r\nCONTENT-ID : <a:b>\r\n"
    assert parse([compose([b"X"], headers=block)]) == [
        (
            {"content-type": "application/dicom; transfer-syntax=1.2", "x-empty": "", "content-id": "<a:b>"},
            b"X",
        )
    ]


def test_part_without_headers_and_without_content() -> None:
    assert parse([b"--B\r\n\r\n--B\r\n\r\n\r\n--B\r\nA: b\r\n\r\n--B--"]) == [({}, b""), ({}, b""), ({"a": "b"}, b"")]


@pytest.mark.parametrize("boundary", ["x" * 73, "=_(a)'+,-./:=? b", "----=_Part_1"])
def test_unusual_boundaries(boundary: str) -> None:
    assert parse([compose([b"X", b"\r\n--"], boundary)], boundary) == [(DICOM, b"X"), (DICOM, b"\r\n--")]


@pytest.mark.parametrize("boundary", ["", " x", "x ", "a\r\nb", "é", "x" * 257])
def test_impossible_boundaries(boundary: str) -> None:
    with pytest.raises(MultipartError) as caught:
        MultipartParser(boundary, 1)
    assert caught.value.code == "boundary"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "incomplete"),
        (b"no boundary at all", "incomplete"),
        (b"--B", "incomplete"),
        (b"--B-", "incomplete"),
        (b"--B\r\nContent-Type: application/dicom", "incomplete"),
        (b"--B\r\n\r\nX", "incomplete"),
        (b"--B\r\n\r\nX\r\n--B\r\n", "incomplete"),
        (b"--B\r\n\r\nX\r\n--B-", "incomplete"),
        (b"--B\r\n\r\nX\r\n--B-x", "malformed"),
        (b"--Babel\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\n\nX\n--B--", "malformed"),
        (b"--B" + b" " * 300 + b"\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\nno colon\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\n: no name\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\n folded onto nothing\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\nA: 1\r\na: 2\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\nA: " + b"x" * MAXIMUM_HEADER_BYTES + b"\r\n\r\nX\r\n--B--", "headers-too-long"),
        (b"--B\r\nA: " + b"x" * 2 * MAXIMUM_HEADER_BYTES, "headers-too-long"),
        (b"--B\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(65)) + b"\r\nX\r\n--B--", "headers-too-long"),
        (b"p" * (MAXIMUM_PASSED_OVER_BYTES + 1) + b"\r\n--B\r\n\r\nX\r\n--B--", "malformed"),
        (b"--B\r\n\r\nX\r\n--B--" + b"e" * (MAXIMUM_PASSED_OVER_BYTES + 1), "malformed"),
        (b"--B\r\n\r\n" * 5 + b"\r\n--B--", "too-many-parts"),
    ],
)
def test_malformed_bodies(body: bytes, code: str) -> None:
    for chunks in ([body], (body[at : at + 1] for at in range(len(body)))):
        with pytest.raises(MultipartError) as caught:
            parse(chunks, maximum_parts=4)
        assert caught.value.code == code


def test_nothing_of_a_long_part_is_kept() -> None:
    parser = MultipartParser("B", 1)
    parser.feed(b"--B\r\n\r\n")
    given_out = 0
    for _ in range(50):
        chunk = bytes(1 << 20) + b"\r\n--"
        given_out += sum(len(event.data) for event in parser.feed(chunk) if isinstance(event, PartData))
    assert given_out >= 50 * (1 << 20) - 4
    assert len(parser._buffer) - parser._position <= len("\r\n--B")


pieces = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", b"--B", b"\r\n--B", b"\r\n--B\r\n", b"--B--", b":", b" ", b"x"]
)
bodies = st.lists(st.one_of(pieces, st.binary(max_size=6)), max_size=40).map(b"".join)


def outcome(chunks: Iterable[bytes]) -> list[Part] | str:
    try:
        return parse(chunks)
    except MultipartError as error:
        return error.code


@settings(max_examples=EXAMPLES, deadline=None)
@given(bodies, st.lists(st.integers(1, 9), min_size=1, max_size=9))
@example(b"--B\r\n\r\n\r\n--B--", [1])
def test_any_body_is_understood_the_same_however_it_is_split(body: bytes, sizes: list[int]) -> None:
    chunks, at = [], 0
    while at < len(body):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(body[at : at + size])
        at += size
    assert outcome(chunks) == outcome([body])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(bodies.filter(lambda content: b"\r\n--B" not in b"\r\n" + content), max_size=6), st.integers(1, 50))
def test_what_was_composed_is_parsed(contents: list[bytes], size: int) -> None:
    body = compose(contents)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    assert parse(chunks) == [(DICOM, content) for content in contents]
