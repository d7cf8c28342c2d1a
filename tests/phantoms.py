"""Synthetic DICOM series with a known shape at a known place: written as a modality would write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

# Row direction (increasing column), column direction (increasing row), slice direction: LPS unit vectors.
ORIENTATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((0.8, 0.6, 0.0), (-0.36, 0.48, -0.8)),
}
SOP_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}


def ellipsoid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Boolean (slice, row, column): a ball of `radius_mm`, off centre by an eighth of the field of view on each
    axis.
    """
    axes = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(shape, spacing_mm, strict=True)), indexing="ij")
    centre = [n * mm * share for n, mm, share in zip(shape, spacing_mm, (0.5, 0.4, 0.6), strict=True)]
    return np.asarray(sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True)) <= radius_mm**2)


def default_voxels(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """int16 (slice, row, column): a bright ball (1000) in a dim block (100) with a fixed noise."""
    smallest_mm = min(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    voxels = np.full(shape, 100, np.int16) + np.random.default_rng(7).integers(0, 20, shape, dtype=np.int16)
    voxels[ellipsoid(shape, spacing_mm, smallest_mm / 4)] = 1000
    return voxels


def make_series(
    *,
    shape: tuple[int, int, int] = (24, 32, 28),
    spacing_mm: tuple[float, float, float] = (3.0, 1.5, 1.5),
    orientation: str | tuple[Sequence[float], Sequence[float]] = "axial",
    modality: str = "MR",
    origin_mm: tuple[float, float, float] = (-20.0, -30.0, 40.0),
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    patient_name: str = "Phantom^Tom",
    patient_id: str = "PH-1",
    voxels: np.ndarray | None = None,
    positions_mm: Sequence[Sequence[float]] | None = None,
    instance_numbers: Sequence[int] | None = None,
    **overrides: Any,
) -> list[Dataset]:
    """Data sets of one single-frame series in slice order, with file meta; `overrides` are attributes by keyword.

    `positions_mm` places each image (LPS) instead of `origin_mm` and the slice spacing; `instance_numbers` are
    1, 2, ... unless given.
    """
    row_direction, column_direction = (
        ORIENTATIONS[orientation] if isinstance(orientation, str) else (tuple(orientation[0]), tuple(orientation[1]))
    )
    normal = np.cross(row_direction, column_direction)
    voxels = default_voxels(shape, spacing_mm) if voxels is None else voxels
    study_uid = study_instance_uid or generate_uid()
    series_uid = series_instance_uid or generate_uid()
    frame_uid = generate_uid(entropy_srcs=[series_uid, "frame"])
    made = []
    for number, plane in enumerate(voxels):
        image = Dataset()
        image.SpecificCharacterSet = "ISO_IR 192"
        image.SOPClassUID = SOP_CLASSES[modality]
        image.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(number)])
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
            study_uid,
            series_uid,
            frame_uid,
        )
        image.PatientName, image.PatientID = patient_name, patient_id
        image.PatientBirthDate, image.PatientSex, image.PatientAge = "19700102", "O", "050Y"
        image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = "20240305"
        image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = "101112"
        image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "ACC-1", "1", ""
        image.Manufacturer, image.ManufacturerModelName = "Phantom Works", "Ball 1"
        image.Modality, image.BodyPartExamined, image.PatientPosition = modality, "BRAIN", "HFS"
        image.SeriesDescription, image.StudyDescription, image.ProtocolName = "T1 phantom", "Head", "T1"
        image.SeriesNumber = 3
        image.InstanceNumber = instance_numbers[number] if instance_numbers else number + 1
        image.PositionReferenceIndicator = ""
        image.ImageType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL"]
        if modality == "MR":
            image.ScanningSequence, image.SequenceVariant, image.ScanOptions = ["GR", "IR"], "MP", ""
            image.MRAcquisitionType, image.EchoTime, image.EchoTrainLength = "3D", 3.0, 1
            image.RepetitionTime, image.InversionTime = 2000.0, 900.0
        else:
            image.KVP, image.AcquisitionNumber, image.ConvolutionKernel = 120.0, 1, "B30f"
        image.ImageOrientationPatient = [float(v) for v in (*row_direction, *column_direction)]
        position = (
            np.array(origin_mm) + number * spacing_mm[0] * normal if positions_mm is None else positions_mm[number]
        )
        image.ImagePositionPatient = [round(float(v), 6) for v in position]
        image.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
        image.SliceThickness = image.SpacingBetweenSlices = spacing_mm[0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = plane.shape
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        if modality == "CT":
            image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "HU"
        for keyword, value in overrides.items():
            setattr(image, keyword, value)
        image.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()
        image["PixelData"].VR = "OW"
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.append(image)
    return made


def write_series(folder: Path, *, transfer_syntax: str = ExplicitVRLittleEndian, **options: Any) -> list[Path]:
    """Write `make_series(**options)` as Part 10 files into `folder`; the paths in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(make_series(**options)):
        if UID(transfer_syntax) != ExplicitVRLittleEndian:
            if UID(transfer_syntax).is_compressed:
                image.compress(transfer_syntax, generate_instance_uid=False)
            else:
                image.file_meta.TransferSyntaxUID = UID(transfer_syntax)
        path = folder / f"{number:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
