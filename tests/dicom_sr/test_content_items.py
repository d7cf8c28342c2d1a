"""Content items as bytes: pydicom and highdicom read them as what they are."""

import numpy as np
import pytest
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr.element_bytes import raw_sequence, uids_in
from dicom_sr.errors import InvalidResult


def read(*content: bytes) -> list[Dataset]:
    """The items as data sets."""
    owner = Dataset()
    owner.SpecificCharacterSet = "ISO_IR 192"
    raw = raw_sequence("ContentSequence", b"".join(content))
    owner[raw.tag] = raw
    owner.set_original_encoding(False, True, ["utf8"])
    return list(owner.ContentSequence)


@pytest.mark.parametrize(
    "value, unit", [(4.25, codes.PERCENT), (1.23456789e-17, codes.MILLILITER), (7, codes.NO_UNITS)]
)
def test_number_equals_that_of_highdicom(value, unit):
    ours = read(items.number(items.CONTAINS, codes.VOLUME, value, unit))[0]
    theirs = sr.NumContentItem(codes.VOLUME, value, unit, relationship_type="CONTAINS")
    assert ours == Dataset(theirs)


def test_coordinates_equal_those_of_highdicom():
    points = np.array([[1.5, 2.0], [7.25, 2.0], [7.25, 9.0], [1.5, 2.0]])
    image = items.image(items.SELECTED, codes.SOURCE, "1.2.3", "1.2.4", frame_number=5)
    ours = read(items.coordinates(items.CONTAINS, codes.SOURCE, "POLYLINE", points, image))[0]
    theirs = sr.ScoordContentItem(codes.SOURCE, "POLYLINE", points, relationship_type="CONTAINS")
    theirs.ContentSequence = [sr.ImageContentItem(codes.SOURCE, "1.2.3", "1.2.4", 5, relationship_type="SELECTED FROM")]
    assert ours == Dataset(theirs)


def test_codes_that_are_equal_to_pydicom_are_written_as_they_are():
    """SRT and SCT codes of one meaning count as equal there; what is kept of one must not be written for the other."""
    old, new = Code("T-28000", "SRT", "Lung"), codes.LUNG
    said = [read(items.code(items.CONTAINS, each, each))[0].ConceptCodeSequence[0].CodeValue for each in (old, new)]
    assert said == ["T-28000", "39607008"]


def test_text_of_any_script_and_versions_of_schemes():
    name = Code("1", "99X", "Größe", "2026")
    item = read(items.text(items.CONTAINS, name, "Lungenödem 肺"))[0]
    assert item.TextValue == "Lungenödem 肺"
    assert item.ConceptNameCodeSequence[0].CodeMeaning == "Größe"
    assert item.ConceptNameCodeSequence[0].CodingSchemeVersion == "2026"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidResult, match="no number"):
        items.number(items.CONTAINS, codes.VOLUME, value, codes.MILLILITER)


def test_coordinates_that_do_not_fit_are_refused():
    with pytest.raises(InvalidResult, match="too long"):
        items.coordinates(items.CONTAINS, codes.SOURCE, "POLYLINE", np.zeros((8192, 2)), b"")


def test_references_are_found_at_any_depth():
    image = items.image(items.CONTAINS, codes.SOURCE, "1.2.3", "1.2.45")
    inner = items.container(items.CONTAINS, codes.SOURCE, [image, items.text(items.CONTAINS, codes.COMMENT, "1.2.99")])
    outer = items.container(items.CONTAINS, codes.SOURCE, [inner, items.image(items.CONTAINS, codes.SOURCE, "1", "2")])
    assert list(uids_in(outer, "ReferencedSOPInstanceUID")) == ["1.2.45", "2"]
