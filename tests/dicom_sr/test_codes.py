"""Coded concepts by name."""

import pytest
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.errors import InvalidCode

NAMED = {name: value for name, value in vars(codes).items() if isinstance(value, Code)}
IN_DICTIONARY = {
    "BRAIN": dictionary.SCT.Brain,
    "BRAIN_VENTRICLE": dictionary.SCT.BrainVentricle,
    "LUNG": dictionary.SCT.Lung,
    "LEFT": dictionary.SCT.Left,
    "RIGHT": dictionary.SCT.Right,
    "ANATOMICAL_STRUCTURE": dictionary.SCT.AnatomicalStructure,
    "TISSUE": dictionary.SCT.Tissue,
    "MORPHOLOGICALLY_ABNORMAL_STRUCTURE": dictionary.SCT.MorphologicallyAbnormalStructure,
    "VOLUME": dictionary.SCT.Volume,
    "AREA": dictionary.SCT.Area,
    "RATIO": dictionary.SCT.Ratio,
    "ARTIFICIAL_INTELLIGENCE": dictionary.DCM.ArtificialIntelligence,
    "PROCESSING_EQUIPMENT": dictionary.DCM.ProcessingEquipment,
    "IMAGING_MEASUREMENT_REPORT": dictionary.DCM.ImagingMeasurementReport,
    "ONCOLOGY_MEASUREMENT_REPORT": dictionary.DCM.OncologyMeasurementReport,
    "COMMENT": dictionary.DCM.Comment,
    "DEVICE": dictionary.DCM.Device,
}


@pytest.mark.parametrize("name", IN_DICTIONARY)
def test_named_code_stands_in_the_dictionary(name):
    assert NAMED[name] == IN_DICTIONARY[name]


@pytest.mark.parametrize("name", NAMED)
def test_named_code_fits(name):
    assert codes.check(NAMED[name]) is NAMED[name]


@pytest.mark.parametrize(
    "value, scheme, meaning",
    [
        ("", "SCT", "x"),
        ("1", "", "x"),
        ("1", "SCT", " "),
        ("1" * 17, "SCT", "x"),
        ("1", "SCT", "x" * 65),
        ("1", "S\\T", "x"),
        ("é", "SCT", "x"),
        ("1", "SÉT", "x"),
        (1, "SCT", "x"),
    ],
)
def test_code_that_does_not_fit_is_refused(value, scheme, meaning):
    with pytest.raises(InvalidCode):
        codes.concept(value, scheme, meaning)
