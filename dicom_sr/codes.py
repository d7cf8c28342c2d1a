"""The coded concepts that results are made of, by name, and a check for those that come from elsewhere.

Values are those of PS3.16 (the tests compare them with the dictionaries of pydicom). `concept` and `unit` are
for codes that models bring in their manifests.
"""

from pydicom.sr.coding import Code

from dicom_sr.errors import InvalidCode

# Segmented property categories, CID 7150
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
MORPHOLOGICALLY_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Altered Structure")

# Segmented property types and finding sites, CID 7151 and CID 4
BRAIN = Code("12738006", "SCT", "Brain")
BRAIN_VENTRICLE = Code("35764002", "SCT", "Brain ventricle")
LUNG = Code("39607008", "SCT", "Lung")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

# Measurements, CID 7460 to 7469
VOLUME = Code("118565006", "SCT", "Volume")
AREA = Code("42798000", "SCT", "Area")
RATIO = Code("118586006", "SCT", "Ratio")

LENGTH = Code("410668003", "SCT", "Length")

# Presence, CID 240 and 4220
PRESENCE = Code("705057003", "SCT", "Presence")
LATERALITY = Code("272741003", "SCT", "Laterality")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
INDETERMINATE = Code("82334004", "SCT", "Indeterminate")

# Units, CID 7181: the code value is what viewers print
MILLILITER = Code("ml", "UCUM", "ml")
CUBIC_MILLIMETER = Code("mm3", "UCUM", "cubic millimeter")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "square millimeter")
MILLIMETER = Code("mm", "UCUM", "millimeter")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
PIXELS = Code("{pixels}", "UCUM", "pixels")

# Algorithm families, CID 7162
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Purposes of reference to contributing equipment, CID 7005
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")

# Derivations of images, CID 7203, and purposes of reference to their sources, CID 7202
SEGMENTATION = Code("113076", "DCM", "Segmentation")
UNSPECIFIED_CALCULATION = Code("112187", "DCM", "Unspecified method of calculation")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
QUANTITY = Code("246205007", "SCT", "Quantity")
BACKGROUND = Code("125040", "DCM", "Background")

# Report titles: CID 7021, and CID 7000 for a report without a place on the images
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
ONCOLOGY_MEASUREMENT_REPORT = Code("126001", "DCM", "Oncology Measurement Report")
DIAGNOSTIC_IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")

# Parts of TID 1500
SOURCE = Code("260753009", "SCT", "Source")
COMMENT = Code("121106", "DCM", "Comment")
IMPRESSION = Code("121073", "DCM", "Impression")
DEVICE = Code("121007", "DCM", "Device")
PROCESSING_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
SUCCEEDED_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")

PROCEDURES_REPORTED = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}
"""Modality -> Procedure Reported (121058, DCM), CID 100, where the body region is not known."""
PROCEDURE_OF_OTHER_MODALITY = Code("43468-8", "LN", "XR unspecified body region")

MODALITIES = {
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "DX": Code("DX", "DCM", "Digital Radiography"),
    "MG": Code("MG", "DCM", "Mammography"),
}
"""Modality -> Modality (121139, DCM) of an image library, CID 29."""


def concept(value: str, scheme_designator: str, meaning: str) -> Code:
    """A coded concept that fits PS3.3 Table 8.8-1, or `InvalidCode`."""
    return check(Code(value, scheme_designator, meaning))


def unit(value: str, meaning: str | None = None) -> Code:
    """A UCUM unit; the meaning defaults to the value, as PS3.16 CID 82 allows."""
    return check(Code(value, "UCUM", meaning or value))


def check(code: Code) -> Code:
    """The same code, if value and scheme are 1 to 16 characters of ASCII and the meaning 1 to 64 characters, or
    `InvalidCode`.

    Whether the scheme knows the value is not checked.
    """
    for name, text, longest in (
        ("value", code.value, 16),
        ("scheme designator", code.scheme_designator, 16),
        ("meaning", code.meaning, 64),
    ):
        is_text = isinstance(text, str) and text.strip() and "\\" not in text and text.isprintable()
        if not is_text or len(text) > longest or (name != "meaning" and not text.isascii()):
            raise InvalidCode(f"code {code.value!r}: {name} must be 1 to {longest} characters, found {text!r}")
    return code
