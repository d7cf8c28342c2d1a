"""Media types, the beginning of a DICOM file, and the answer module: small and pure."""

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.errors import Refused
from node.web.media import MediaType, accepts, parse_media_type
from node.web.reception import read_beginning
from node.web.store_response import Outcome, http_status, response_module, warning
from tests.node.web.conftest import part10
from tests.phantoms import make_series

EXAMPLES = 20_000 if os.environ.get("OVERREAD_SOAK") else 100
FILE = part10(make_series(shape=(1, 4, 4), modality="CT")[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/dicom", MediaType("application/dicom")),
        (
            'Multipart/Related;type="application/dicom" ; Boundary=a=b',
            MediaType("multipart/related", {"type": "application/dicom", "boundary": "a=b"}),
        ),
        ("multipart/related; type=application/dicom;", MediaType("multipart/related", {"type": "application/dicom"})),
        (r'a/b; c="d\"e;f"; c=again', MediaType("a/b", {"c": 'd"e;f'})),
        ('a/b; c="open', None),
        ("a/b c", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_media_types(text: str, expected: MediaType | None) -> None:
    assert parse_media_type(text) == expected


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("", True),
        ("*/*", True),
        ("application/*;q=0.2, text/html", True),
        ("application/json", False),
        ("application/dicom+json;q=0, */*", False),
        ("application/dicom+json; q=x", False),
        ('multipart/related; type="application/dicom"', False),
    ],
)
def test_accept(header: str, taken: bool) -> None:
    assert accepts(header, ["application/dicom+json"]) is taken


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(alphabet='ab/;=", \\\t*q0.', max_size=60))
def test_any_header_is_understood_or_not(text: str) -> None:
    parse_media_type(text)
    accepts(text, ["a/b"])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=12), st.integers(0, 400))
@example(0, b"", 0)
def test_any_beginning_is_read_or_refused(at: int, noise: bytes, cut: int) -> None:
    content = FILE[:at] + noise + FILE[at + len(noise) :]
    try:
        meta = read_beginning(content[: len(content) - cut])
    except Refused as refusal:
        assert refusal.status == 0xC000
    else:
        assert 132 <= meta.data_set_offset <= len(content)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([(0, "")], 200),
        ([(0, ""), (0xC000, "truncated")], 202),
        ([(0xC000, "truncated"), (0xA700, "disk-full")], 409),
        ([(0xA700, "disk-full")] * 2, 507),
        ([(0xA700, "disk-full"), (0xA700, "storage-failed")], 503),
    ],
)
def test_status_of_the_answer(statuses: list[tuple[int, str]], expected: int) -> None:
    outcomes = [Outcome("1.2", "1.2.3", status=status, code=code) for status, code in statuses]
    assert http_status(outcomes) == expected
    assert (warning(outcomes) == "") is (expected == 200)


def test_module_of_the_answer() -> None:
    outcomes = [Outcome("1.2", "1.2.3"), Outcome("1.2", "1.2.4", status=0xC001), Outcome("", "", status=0xC000)]
    reference = {"00081150": {"vr": "UI", "Value": ["1.2"]}}
    assert response_module(outcomes) == {
        "00081190": {"vr": "UR"},
        "00081199": {
            "vr": "SQ",
            "Value": [{**reference, "00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081190": {"vr": "UR"}}],
        },
        "00081198": {
            "vr": "SQ",
            "Value": [
                {
                    **reference,
                    "00081155": {"vr": "UI", "Value": ["1.2.4"]},
                    "00081197": {"vr": "US", "Value": [0xC001]},
                }
            ],
        },
        "0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}]},
    }
