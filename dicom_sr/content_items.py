"""Content items of TID 1500 that highdicom does not write in the form viewers need."""

from collections.abc import Iterable

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.content_tree import concept_value
from dicom_sr.evidence import Evidence

CONTAINS = sr.RelationshipTypeValues.CONTAINS
IMAGE_LIBRARY = codes.concept("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = codes.concept("126200", "DCM", "Image Library Group")
MODALITY = codes.concept("121139", "DCM", "Modality")
FRAME_OF_REFERENCE_UID = codes.concept("112227", "DCM", "Frame of Reference UID")


def image_library(evidence: Evidence) -> Dataset:
    """TID 1600 with one group: what all images share (TID 1602) once, then each image by itself.

    highdicom repeats rows, columns, spacing, position and orientation as 14 numbers an image, which readers of
    measurements then take for measurements. Plain data sets, because highdicom checks and copies its own content items
    at some milliseconds each.
    """
    first = evidence.images[0]
    shared = []
    if evidence.frame_of_reference_uid:
        uid = evidence.frame_of_reference_uid
        shared.append(_item("UIDREF", FRAME_OF_REFERENCE_UID, "HAS ACQ CONTEXT", UID=uid))
    modality = codes.MODALITIES.get(str(first.get("Modality", "")))
    if modality is not None:
        concept = [sr.CodedConcept.from_code(modality)]
        shared.insert(0, _item("CODE", MODALITY, "HAS ACQ CONTEXT", ConceptCodeSequence=concept))
    images = [
        _item("IMAGE", codes.SOURCE, "CONTAINS", ReferencedSOPSequence=[_reference(image)]) for image in evidence.images
    ]
    group = _item(
        "CONTAINER",
        IMAGE_LIBRARY_GROUP,
        "CONTAINS",
        ContinuityOfContent="SEPARATE",
        ContentSequence=[*shared, *images],
    )
    return _item("CONTAINER", IMAGE_LIBRARY, "CONTAINS", ContinuityOfContent="SEPARATE", ContentSequence=[group])


def insert_image_library(report: Dataset, evidence: Evidence) -> None:
    """Put an image library where TID 1500 has it: before the Imaging Measurements (126010, DCM)."""
    items = list(report.ContentSequence)
    place = next(index for index, item in enumerate(items) if concept_value(item) == "126010")
    report.add_new("ContentSequence", "SQ", [*items[:place], image_library(evidence), *items[place:]])


def _item(value_type: str, name: Code, relationship_type: str, **attributes: object) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType = relationship_type
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [sr.CodedConcept.from_code(name)]
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def qualitative_evaluations(comments: Iterable[str], impression: str = "") -> sr.ContainerContentItem:
    """The container for what concerns the images as a whole (TID 1500), holding comments and an impression as text."""
    container = sr.ContainerContentItem(
        name=sr.CodedConcept.from_code(codes.QUALITATIVE_EVALUATIONS), relationship_type=CONTAINS
    )
    container.ContentSequence = sr.ContentSequence()
    for comment in comments:
        container.ContentSequence.append(sr.TextContentItem(codes.COMMENT, comment, CONTAINS))
    if impression:
        container.ContentSequence.append(sr.TextContentItem(codes.IMPRESSION, impression, CONTAINS))
    return container
