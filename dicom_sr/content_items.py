"""Content items of TID 1500 that highdicom does not write in the form viewers need."""

from collections.abc import Iterable

from highdicom import sr
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.evidence import Evidence

CONTAINS = sr.RelationshipTypeValues.CONTAINS
IMAGE_LIBRARY = codes.concept("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = codes.concept("126200", "DCM", "Image Library Group")
MODALITY = codes.concept("121139", "DCM", "Modality")
FRAME_OF_REFERENCE_UID = codes.concept("112227", "DCM", "Frame of Reference UID")


def image_library(evidence: Evidence) -> sr.ContainerContentItem:
    """TID 1600 with one group: what all images share (TID 1602) once, then each image by itself.

    highdicom repeats rows, columns, spacing, position and orientation as 14 numbers an image, which readers
    of measurements then take for measurements.
    """
    first = evidence.images[0]
    group = _container(IMAGE_LIBRARY_GROUP)
    context = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    modality = codes.MODALITIES.get(str(first.get("Modality", "")))
    if modality is not None:
        group.ContentSequence.append(sr.CodeContentItem(MODALITY, modality, context))
    group.ContentSequence.append(sr.UIDRefContentItem(FRAME_OF_REFERENCE_UID, first.FrameOfReferenceUID, context))
    for image in evidence.images:
        group.ContentSequence.append(
            sr.ImageContentItem(codes.SOURCE, image.SOPClassUID, image.SOPInstanceUID, relationship_type=CONTAINS)
        )
    library = _container(IMAGE_LIBRARY, "1600")
    library.ContentSequence.append(group)
    return library


def qualitative_evaluations(comments: Iterable[str]) -> sr.ContainerContentItem:
    """The container for what concerns the images as a whole (TID 1500), holding comments as text."""
    container = _container(codes.QUALITATIVE_EVALUATIONS)
    for comment in comments:
        container.ContentSequence.append(sr.TextContentItem(codes.COMMENT, comment, CONTAINS))
    return container


def _container(name: Code, template_id: str | None = None) -> sr.ContainerContentItem:
    item = sr.ContainerContentItem(
        name=sr.CodedConcept.from_code(name), relationship_type=CONTAINS, template_id=template_id
    )
    item.ContentSequence = sr.ContentSequence()
    return item
