"""Frames of an enhanced multi-frame object as if each were an image of its own (PS3.3 C.7.6.16).

What a functional group says of a frame, shared or its own, is put where a single-frame header has it, so that
everything behind this file knows one kind of header only.
"""

from collections.abc import Sequence

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from node.volume.pixels import VALUE_ERRORS

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "FrameContentSequence",
    "FrameAnatomySequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "CTAcquisitionDetailsSequence",
    "CTXRayDetailsSequence",
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "TemporalPositionSequence",
    "CardiacSynchronizationSequence",
    "XRayTimeSequence",
)
"""Functional groups macros that are read; later ones do not replace what earlier ones say."""

RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "FrameType": "ImageType",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}
"""Keywords of functional groups whose single-frame counterpart has another name."""


def has_groups(header: Dataset) -> bool:
    """Whether frames are described by functional groups."""
    return SHARED in header or PER_FRAME in header


def base_header(header: Dataset) -> Dataset:
    """The header without its functional groups: what holds for the whole object."""
    base = Dataset(_raw_elements(header, (Tag(SHARED), Tag(PER_FRAME))))
    if hasattr(header, "file_meta"):
        base.file_meta = header.file_meta
    return base


def frame_header(header: Dataset, base: Dataset, frame: int) -> Dataset:
    """A single-frame header of the frame with this index (from 0).

    Parameters
    ----------
    header : Dataset
        Of the whole object.
    base : Dataset
        `base_header` of it; shared by all frames.
    """
    own = Dataset(_raw_elements(base))
    _set(own, "NumberOfFrames", 1)
    for groups in (_item(header, SHARED, 0), _item(header, PER_FRAME, frame)):
        if groups is not None:
            for name in GROUPS:
                _flatten(_item(groups, name, 0), own)
    return own


def _raw_elements(dataset: Dataset, without: Sequence[BaseTag] = ()) -> dict[BaseTag, DataElement | RawDataElement]:
    """The elements as they are, none of them converted."""
    return {tag: element for tag, element in dataset._dict.items() if tag not in without}


def _flatten(group: Dataset | None, into: Dataset) -> None:
    if group is None:
        return
    for tag, element in _raw_elements(group).items():
        into[tag] = element
    for keyword, usual in RENAMED.items():
        if keyword in group:
            try:
                _set(into, usual, group[keyword].value)
            except VALUE_ERRORS:
                continue


def _set(dataset: Dataset, keyword: str, value: object) -> None:
    """A new element: the one that is there may belong to other headers too."""
    dataset[Tag(keyword)] = DataElement(Tag(keyword), dictionary_VR(keyword), value)


def _item(dataset: Dataset, keyword: str, index: int) -> Dataset | None:
    """One item of a sequence, or None."""
    try:
        items = dataset.get(keyword)
        return items[index] if items is not None and len(items) > index else None
    except (*VALUE_ERRORS, IndexError):
        return None
