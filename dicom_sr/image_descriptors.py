"""What an image library says of an image (TID 1602, TID 1603), as content items, as far as the image says it.

Of images in space their place says all that a reader needs. A projection does not say where it is, but which side of
the patient it shows, from where, and which way up. Its spacing and size are left out: they would be numbers, which
readers of measurements then take for measurements.
"""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr.errors import InvalidCode

IMAGE_LATERALITY = codes.concept("111027", "DCM", "Image Laterality")
IMAGE_VIEW = codes.concept("111031", "DCM", "Image View")
ROW_ORIENTATION = codes.concept("111044", "DCM", "Patient Orientation Row")
COLUMN_ORIENTATION = codes.concept("111043", "DCM", "Patient Orientation Column")

SIDES = {"L": codes.LEFT, "R": codes.RIGHT, "B": codes.concept("51440002", "SCT", "Bilateral")}
"""Image Laterality (0020,0062) -> CID 244; U, unpaired, is no side."""
VIEWS = {
    "AP": codes.concept("399348003", "SCT", "antero-posterior"),
    "PA": codes.concept("272479007", "SCT", "postero-anterior"),
    "LL": codes.concept("399173006", "SCT", "left lateral"),
    "RL": codes.concept("399198007", "SCT", "right lateral"),
}
"""View Position (0018,5101) -> CID 4010, where View Code Sequence is missing."""


def describe_projection(image: Dataset) -> list[bytes]:
    """Laterality, view and orientation of a projection."""
    found = []
    side = SIDES.get(str(image.get("ImageLaterality") or image.get("Laterality") or ""))
    if side is not None:
        found.append(items.code(items.ACQUISITION, IMAGE_LATERALITY, side))
    view = _view(image)
    if view is not None:
        found.append(items.code(items.ACQUISITION, IMAGE_VIEW, view))
    found += [items.text(items.ACQUISITION, name, value) for name, value in orientation_of(image)]
    return found


def orientation_of(image: Dataset) -> list[tuple[Code, str]]:
    """Patient Orientation (0020,0020) of row and column, where it has both as the standard writes them."""
    orientation = image.get("PatientOrientation") or ()
    if isinstance(orientation, str) or len(orientation) != 2 or not all(str(each).isascii() for each in orientation):
        return []
    names = (ROW_ORIENTATION, COLUMN_ORIENTATION)
    return [(name, str(value)) for name, value in zip(names, orientation, strict=True) if value]


def _view(image: Dataset) -> Code | None:
    """The view as the image codes it, if that is a whole code of ASCII, else by View Position."""
    for item in image.get("ViewCodeSequence") or ():
        try:
            parts = (str(item.get(each, "")) for each in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
            view = codes.concept(*parts)
        except InvalidCode:
            continue
        if view.meaning.isascii():
            return view
    return VIEWS.get(str(image.get("ViewPosition", "")))
