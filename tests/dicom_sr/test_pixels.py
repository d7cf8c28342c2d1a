"""Frames as streams of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import pack_bits

from dicom_sr.label_runs import label_extents
from dicom_sr.pixels import Mask, label_frame, native_frames, packed_frames, quantise

SHAPES = [(5, 4, 8), (9, 3, 5), (1, 1, 1), (17, 5, 7)]


def labels_of(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), start=st.integers(0, 200), size=st.integers(0, 200))
def test_packed_frames_are_those_of_pydicom(shape, seed, start, size):
    """Wherever frames begin within a byte, and in whatever portions they are read."""
    labels = labels_of(shape, seed)
    extents = label_extents(labels, 3)
    masks = [
        Mask(index, label, int(extents.first[index, label]), int(extents.end[index, label]))
        for label in (1, 3)
        for index in range(shape[0])
    ]
    stream = packed_frames(labels, masks)
    expected = pack_bits(np.concatenate([labels == 1, labels == 3]).astype(np.uint8).ravel())
    assert stream.read() == expected == b"".join(stream.chunks())
    assert len(stream) == len(expected)
    stream.seek(start)
    assert stream.read(size) == expected[start : start + size]
    assert stream.seek(0, 2) == len(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_frames_are_padded_to_an_even_length(shape):
    labels = labels_of(shape, 1)
    stream = native_frames(shape[0], lambda index: labels[index], labels[0].size)
    assert stream.read() == labels.tobytes() + b"\0" * (labels.size % 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([np.uint8, np.uint16]))
def test_extents_are_those_of_the_pixels(seed, kind):
    labels = labels_of((4, 5, 6), seed).astype(kind)
    labels[seed % 4] = seed % 3
    extents = label_extents(labels, 6)
    assert extents.voxels.shape == (4, 7)
    for index, label in np.ndindex(4, 7):
        places = np.flatnonzero(labels[index] == label)
        assert extents.voxels[index, label] == len(places)
        if len(places):
            assert (extents.first[index, label], extents.end[index, label]) == (places[0], places[-1] + 1)


def test_labels_become_segment_numbers():
    plane = np.array([[0, 7], [300, 7]], np.uint16)
    np.testing.assert_array_equal(label_frame(plane, {7: 1, 300: 2}), [[0, 1], [2, 1]])
    assert label_frame(plane, {7: 1, 300: 2}).dtype == np.uint8
    many = {number: number for number in range(1, 301)}
    assert label_frame(plane, many) is plane


def test_fractions_are_clipped_and_rounded():
    values = np.array([-1, 0.001, 0.002, 0.5, 1, 7, np.nan], np.float32)
    np.testing.assert_array_equal(quantise(values), [0, 0, 1, 128, 255, 255, 0])
