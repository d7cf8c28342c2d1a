"""Single images of every pixel format, written as a modality would write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def write_image(
    path: Path,
    pixels: np.ndarray | None = None,
    *,
    streams: Sequence[bytes] = (),
    transfer_syntax: str = ExplicitVRLittleEndian,
    has_offset_table: bool = True,
    **attributes: Any,
) -> Path:
    """Write an image: native `pixels` as they are to lie in the file, or code `streams`, one for each frame.

    `attributes` by keyword; None leaves one out.
    """
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(image, keyword, generate_uid())
    image.PatientName, image.PatientID, image.Modality = "Phantom^Tom", "PH-1", "DX"
    if pixels is not None:
        image.Rows, image.Columns = pixels.shape[-2:]
        image.BitsAllocated = image.BitsStored = pixels.dtype.itemsize * 8
        image.PixelRepresentation = int(pixels.dtype.kind == "i")
        image.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    else:
        image.PixelData = encapsulate(list(streams), has_bot=has_offset_table)
        image.PixelRepresentation = 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    if "HighBit" not in attributes:
        image.HighBit = image.BitsStored - 1
    image["PixelData"].VR = "OB" if streams else "OW"
    image["PixelData"].is_undefined_length = bool(streams)
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.get("SOPInstanceUID", "1.2.3")
    image.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    image.file_meta.FileMetaInformationGroupLength, image.file_meta.FileMetaInformationVersion = 0, b"\0\1"
    image.file_meta.ImplementationClassUID, image.preamble = "1.2.3", bytes(128)
    # pydicom does not know every transfer syntax that is tried here
    image.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)
    return path
