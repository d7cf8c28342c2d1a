"""Outputs with a score for every voxel: labels painted block by block, and maps. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dicom_sr.findings import Map, Segment
from node.infer.arrays import ScoreDevice, copied, on_host
from node.infer.cleaning import clean
from node.infer.measure import count_voxels, measure
from node.infer.mosaic import Block, Layout
from node.infer.output_sections import HeatMap, Label, Segmentation
from node.infer.paint import Painting
from node.infer.parts import Part
from node.infer.postprocess import activate, make_decision
from node.infer.subject import Subject
from node.infer.transforms import resample
from node.volume.volume import Grid


def segment_of(label: Label, number: int) -> Segment:
    """A label as a segment of the Result."""
    return Segment(
        number=number,
        label=label.name,
        category=label.category.code,
        type=label.type.code,
        rgb=label.rgb,
        anatomic_region=label.region.code if label.region else None,
        laterality=label.laterality.code if label.laterality else None,
    )


class LabelMaker:
    """Labels of one segmentation, painted while blocks of scores come.

    Parameters
    ----------
    section : Segmentation
    activation : str
        The one that is still to be applied.
    layout, grid
        Of the blocks.
    subject : Subject
    first_number : int
        Segment number of the first label.
    device : ScoreDevice, optional
        Where labels are cleaned.
    nearest_axis : int, optional
        Of `grid`: along it scores are not interpolated.
    """

    def __init__(
        self,
        section: Segmentation,
        activation: str,
        layout: Layout,
        grid: Grid,
        subject: Subject,
        first_number: int,
        device: ScoreDevice | None = None,
        nearest_axis: int | None = None,
    ) -> None:
        self._section, self._subject, self._device = section, subject, device
        self._first = first_number
        resampling = "labels" if section.decision == "values" else section.resample
        groups = [(label,) for label in section.labels] if section.overlap else [section.labels]
        self._paintings = [
            Painting(
                layout,
                grid,
                subject.source,
                make_decision(section, group, section.channels),
                activation=activation if place == 0 else "none",  # in place, once for all
                resample=resampling,
                nearest_axis=nearest_axis,
            )
            for place, group in enumerate(groups)
        ]

    def take(self, block: Block) -> None:
        """Add a block of the section's channels; its scores are changed."""
        for painting in self._paintings:
            painting.take(block)

    def finish(self, keep: np.ndarray | None) -> Part:
        """The labels cleaned and measured.

        Parameters
        ----------
        keep : ndarray of bool, optional
            Labels outside are removed.
        """
        maps: list[np.ndarray] = []
        for place, painting in enumerate(self._paintings):
            labels = painting.finish()
            if keep is not None:
                labels[~keep] = 0
            self._clean(labels)
            _merge(maps, self._numbered(labels, place if self._section.overlap else 0))
        return self._part(maps)

    def empty(self) -> Part:
        """Nothing found."""
        return self._part([self._numbered(np.zeros(self._subject.source.shape, np.uint8), 0)])

    def _numbered(self, labels: np.ndarray, shift: int) -> np.ndarray:
        """Labels with the segment numbers of the Result, uint8 where they fit."""
        first = self._first + shift
        if first == 1:
            return labels
        numbers = np.arange(len(self._section.labels) + 1) + first - 1
        numbers[0] = 0
        kind = np.uint8 if self._first + len(self._section.labels) <= 256 else np.uint16
        return numbers.astype(kind)[labels]

    def _clean(self, labels: np.ndarray) -> None:
        """On the voxels of a volume, or frame by frame on the pixels of an image."""
        subject = self._subject
        parts = [labels[index : index + 1] for index in range(len(labels))] if subject.is_image else [labels]
        for index, part in enumerate(parts):
            values = subject.values[index : index + 1] if subject.is_image else subject.values
            if values.ndim == 4:
                values = values.mean(axis=3)
            spacing_mm, thicknesses = subject.spacing_mm or (1.0, 1.0, 1.0), subject.source.thicknesses
            clean(part, values, subject.voxel_ml or np.inf, self._section, spacing_mm, thicknesses, self._device)

    def _part(self, maps: list[np.ndarray]) -> Part:
        numbered: Mapping[int, Label] = dict(enumerate(self._section.labels, start=self._first))
        extents = count_voxels(maps, self._first + len(numbered) - 1, self._subject.source.thicknesses)
        found = {number: extents[number - 1] for number in numbered}
        size = self._subject.pixel_mm2 if self._subject.is_image else self._subject.voxel_ml
        measured = measure(found, numbered, self._section.measurements, size)
        for labels in maps:
            labels.setflags(write=False)
        return Part(
            label_maps=tuple(maps),
            segments=tuple(segment_of(label, number) for number, label in numbered.items()),
            findings=measured.findings,
            remarks=measured.remarks,
        )


def _merge(maps: list[np.ndarray], labels: np.ndarray) -> None:
    """Add labels to the first map that they do not overlap, or as one more."""
    present = labels > 0
    for each in maps:
        if each.dtype == labels.dtype and not (each[present] > 0).any():
            np.copyto(each, labels, where=present)
            return
    maps.append(labels)


class MapMaker:
    """A heat map gathered block by block."""

    def __init__(self, section: HeatMap, activation: str, grid: Grid, subject: Subject, number: int | None) -> None:
        self._section, self._activation = section, activation
        self._grid, self._subject, self._number = grid, subject, number
        self._values = np.zeros(grid.shape, np.float32)

    def take(self, block: Block) -> None:
        """Add a block of the section's channels; its scores are changed."""
        self._values[block.box] = on_host(activate(block.scores, self._activation)[self._section.channel, ...])

    def finish(self, keep: np.ndarray | None) -> Part:
        """The map on the images' own voxels; 0 outside the network's grid."""
        values = resample(self._values, self._grid, self._subject.source, "linear", 0.0)
        if keep is not None:
            values[~keep] = 0
        values.setflags(write=False)
        section = self._section
        return Part(maps=(Map(section.name, section.quantity.code, section.unit.code, values, self._number),))

    def empty(self) -> Part:
        """No map."""
        return Part()


Maker = LabelMaker | MapMaker


def take_blocks(blocks: Iterable[Block], makers: Sequence[tuple[Maker, slice]]) -> None:
    """Give every block to all makers, each with its own channels."""
    for block in blocks:
        for maker, channels in makers:
            scores = block.scores if len(makers) == 1 else copied(block.scores[channels, ...])
            maker.take(Block(block.index, block.box, scores))
            del scores
        del block  # it may be a part of the network's answer, and the network runs again for the next
