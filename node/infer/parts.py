"""What one output of a network contributes to the Result."""

from dataclasses import dataclass, field

import numpy as np

from dicom_sr.findings import Finding, Map, Segment
from node.infer.regions import IndexBox
from node.infer.subject import Subject
from node.volume.volume import Grid


@dataclass(frozen=True, eq=False)
class Part:
    """Contribution of one output.

    Parameters
    ----------
    label_maps : tuple of ndarray
        On the subject's voxels; numbers are those of `segments`.
    segments : tuple of Segment
    findings : tuple of Finding
    maps : tuple of Map
    text : str
    embeddings : dict
        Vectors by name.
    remarks : tuple of str
    boxes : dict
        What was detected, by class, on the subject's voxels, for later stages.
    present : frozenset of str
        Classes and answers that are there, for later stages.
    """

    label_maps: tuple[np.ndarray, ...] = ()
    segments: tuple[Segment, ...] = ()
    findings: tuple[Finding, ...] = ()
    maps: tuple[Map, ...] = ()
    text: str = ""
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    boxes: dict[str, tuple[IndexBox, ...]] = field(default_factory=dict)
    present: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Call:
    """One answer of a network without a place.

    Parameters
    ----------
    subject : Subject
        What it saw.
    grid : Grid
        Of the tensor.
    index : int, optional
        The slice or frame that it saw, along axis 0 of `grid`; None for the whole.
    tensors : dict
        By name; the batch axis is kept.
    """

    subject: Subject
    grid: Grid
    index: int | None
    tensors: dict[str, np.ndarray]

    @property
    def image(self) -> str:
        """SOP Instance UID of the image that lies where the call looked; of a whole volume that of its middle."""
        if self.subject.is_image:
            return self.subject.images[0]
        middle = (np.array(self.grid.shape, float) - 1) / 2
        if self.index is not None:
            middle[0] = self.index
        place = int(
            np.clip(np.rint(self.subject.place(middle[None], self.grid)[0, 0]), 0, len(self.subject.images) - 1)
        )
        return self.subject.images[place]
