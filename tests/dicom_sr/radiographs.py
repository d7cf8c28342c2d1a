"""Projection images as a modality would write them: digital radiographs and mammograms."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

SHAPE, SPACING_MM = (40, 44), (0.2, 0.2)
SOP_CLASSES = {"DX": "1.2.840.10008.5.1.4.1.1.1.1", "MG": "1.2.840.10008.5.1.4.1.1.1.2"}
VIEWS = {
    "CC": ("399162004", "SCT", "cranio-caudal"),
    "MLO": ("399368009", "SCT", "medio-lateral oblique"),
}


def _code(value: tuple[str, str, str]) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value
    return item


def radiograph(
    *,
    modality: str = "DX",
    study_instance_uid: str = "1.2.3",
    series_instance_uid: str = "1.2.4",
    uid: str = "1.2.5.1",
    laterality: str = "",
    view: str = "PA",
    **overrides: Any,
) -> Dataset:
    """One image of 40 rows and 44 columns of 0.2 mm, brighter towards its middle; it has no place in space."""
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = SOP_CLASSES[modality], uid
    image.StudyInstanceUID, image.SeriesInstanceUID = study_instance_uid, series_instance_uid
    image.PatientName, image.PatientID = "Phantom^Ray", "PH-2"
    image.PatientBirthDate, image.PatientSex = "19600102", "F"
    image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = "20240305"
    image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = "101112"
    image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "ACC-2", "1", ""
    image.Manufacturer, image.Modality, image.BodyPartExamined = "Phantom Works", modality, "CHEST"
    image.SeriesNumber, image.InstanceNumber, image.ViewPosition = 1, 1, view
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.PatientOrientation = ["P", "F"] if modality == "MG" else ["L", "F"]
    image.ImageLaterality = laterality or "U"
    image.ImagerPixelSpacing = list(SPACING_MM)
    if view in VIEWS:
        image.BodyPartExamined = "BREAST"
        image.ViewCodeSequence = [_code(VIEWS[view])]
        image.ViewCodeSequence[0].ViewModifierCodeSequence = []
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = SHAPE
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in overrides.items():
        setattr(image, keyword, value)
    rows, columns = np.indices(SHAPE)
    pixels = 4000 - 60 * np.hypot(rows - SHAPE[0] / 2, columns - SHAPE[1] / 2)
    image.PixelData = pixels.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = UID(image.SOPClassUID)
    image.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image
