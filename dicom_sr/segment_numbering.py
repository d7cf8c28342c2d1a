"""Which segments of a Result are written, into which Segmentation object, and under which number.

Segment numbers run from 1 without gaps in each object. Segments that overlap lie in several label maps, and each label
map with voxels becomes an object of its own, since viewers state wrong volumes of overlaps in one object.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Result, Segment
from dicom_sr.label_runs import LabelExtents, label_extents


@dataclass(frozen=True, eq=False)
class SegmentPlace:
    """Where a segment with voxels is written.

    Parameters
    ----------
    segment : Segment
    label_map : int
        Index of the label map that holds it.
    object_index : int
        Index of the Segmentation object, from 0, in the order of delivery.
    segment_number : int
        Segment Number (0062,0004) in that object.
    extents : LabelExtents
        Of its label map.
    """

    segment: Segment
    label_map: int
    object_index: int
    segment_number: int
    extents: LabelExtents

    @property
    def voxels_of_slices(self) -> np.ndarray:
        """int64 (slice,): its voxels in each slice."""
        return np.asarray(self.extents.voxels[:, self.segment.number])

    @property
    def largest_slice(self) -> int:
        """Index of the slice that holds most of its voxels."""
        return int(self.voxels_of_slices.argmax())

    @property
    def slices(self) -> np.ndarray:
        """Indices of the slices that hold any of its voxels, ascending."""
        return np.flatnonzero(self.voxels_of_slices)

    @property
    def voxels(self) -> int:
        """All its voxels."""
        return int(self.voxels_of_slices.sum())


@dataclass(frozen=True, eq=False)
class SegmentNumbering:
    """Which segments are written, and where.

    Parameters
    ----------
    places : tuple of SegmentPlace
        Segments with a voxel, in the order in which they are written.
    absent : tuple of Segment
        Segments without a voxel; left out, since viewers list an empty segment and show nothing.
    """

    places: tuple[SegmentPlace, ...]
    absent: tuple[Segment, ...]

    @property
    def present(self) -> tuple[Segment, ...]:
        """Segments with a voxel."""
        return tuple(place.segment for place in self.places)

    @property
    def largest_slices(self) -> tuple[int, ...]:
        """For each present segment the index of the slice that holds most of its voxels."""
        return tuple(place.largest_slice for place in self.places)

    @property
    def place_of(self) -> Mapping[int, SegmentPlace]:
        """Label of the Result -> its place."""
        return {place.segment.number: place for place in self.places}

    @property
    def segment_numbers(self) -> Mapping[int, int]:
        """Label of the Result -> Segment Number in its object."""
        return {place.segment.number: place.segment_number for place in self.places}

    @property
    def objects(self) -> tuple[tuple[SegmentPlace, ...], ...]:
        """The places in each Segmentation object."""
        count = 1 + max((place.object_index for place in self.places), default=-1)
        return tuple(tuple(place for place in self.places if place.object_index == index) for index in range(count))


def number_segments(result: Result) -> SegmentNumbering:
    """The numbering; refuses labels without a segment, names and numbers used twice, and a label in two maps."""
    numbers = [segment.number for segment in result.segments]
    names = [segment.label for segment in result.segments]
    if len(set(numbers)) < len(numbers) or len(set(names)) < len(names) or min(numbers, default=1) < 1:
        raise InvalidResult(f"segments need distinct numbers from 1 and distinct labels, found {numbers}")
    ordered = sorted(result.segments, key=lambda segment: segment.number)
    places: list[SegmentPlace] = []
    object_index = 0
    for index, labels in enumerate(result.label_maps):
        extents = label_extents(labels, max(numbers, default=0))
        held = {int(label) for label in np.flatnonzero(extents.voxels.any(axis=0))} - {0}
        if held - set(numbers):
            raise InvalidResult(
                f"label volume holds {sorted(held - set(numbers))}, segments are described for {sorted(numbers)}"
            )
        twice = held & {place.segment.number for place in places}
        if twice:
            raise InvalidResult(f"labels {sorted(twice)} are in several label maps, expected each in one")
        present = [segment for segment in ordered if segment.number in held]
        places += [
            SegmentPlace(segment, index, object_index, number, extents) for number, segment in enumerate(present, 1)
        ]
        object_index += bool(present)
    written = {place.segment.number for place in places}
    return SegmentNumbering(tuple(places), tuple(segment for segment in ordered if segment.number not in written))
