"""RLE Lossless, decoded by pydicom and by pylibjpeg."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.decoders.rle import _rle_decode_frame
from rle.utils import decode_frame

from dicom_sr.rle import encode_rle_frame


def decoded(frame: np.ndarray) -> np.ndarray:
    """By pydicom's own decoder; samples come plane by plane."""
    samples = frame.shape[2] if frame.ndim == 3 else 1
    raw = _rle_decode_frame(encode_rle_frame(frame), *frame.shape[:2], samples, 8 * frame.itemsize)
    planes = np.frombuffer(bytes(raw), frame.dtype)
    if frame.ndim == 2:
        return planes.reshape(frame.shape)
    return planes.reshape(samples, *frame.shape[:2]).transpose(1, 2, 0)


@st.composite
def frames(draw) -> np.ndarray:
    """Runs of any length, literals of any length, and what is between."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 400))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.sampled_from([1, 2, 3, 130, 500]))
    values = chance.integers(0, draw(st.sampled_from([2, 300, 65536])), rows * columns)
    runs = np.repeat(values, chance.integers(1, longest + 1, len(values)))[: rows * columns]
    return runs.reshape(rows, columns).astype(draw(st.sampled_from([np.uint8, np.uint16])))


@settings(max_examples=150, deadline=None)
@given(frames())
def test_comes_back_the_same(frame):
    np.testing.assert_array_equal(decoded(frame), frame)


def test_colour_comes_back_the_same():
    frame = np.random.default_rng(0).integers(0, 3, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decoded(frame), frame)


def test_another_decoder_reads_it():
    frame = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((5, 60), np.uint8))
    raw = decode_frame(encode_rle_frame(frame), frame.size, 8, "<")
    np.testing.assert_array_equal(np.frombuffer(bytes(raw), np.uint8).reshape(frame.shape), frame)


def test_no_run_crosses_a_row():
    """PS3.5 G.3.1: an empty frame is still one run for each row."""
    assert len(encode_rle_frame(np.zeros((16, 100), np.uint8))) == 64 + 16 * 2


def test_other_kinds_are_refused():
    with pytest.raises(ValueError, match="float32"):
        encode_rle_frame(np.zeros((2, 2), np.float32))
