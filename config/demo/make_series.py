"""Write the MNI152 T1 template that the nilearn package carries as a DICOM MR series.

Requirements: nilearn, nibabel, numpy, pydicom 3 and pyjpegls. None of them but numpy, pydicom and pyjpegls is
needed by the node itself, so use an environment of your own:

    pip install nilearn nibabel pydicom pyjpegls
    python make_series.py mni152-t1

The result is the same byte for byte on every run with the same library versions: all UIDs are derived by name
(UUID version 5 under 2.25), all dates are fixed.
"""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path

import nibabel
import nilearn.datasets
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import JPEGLSLossless, MRImageStorage

TEMPLATE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
#: The template has 8 bits (0..255); times four it fills 10 of the 12 bits stored. Nothing is lost or added.
FACTOR = 4
#: Empty voxels kept around the brain.
MARGIN = 4
DATE, TIME = "20090101", "120000"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:overread:demo:mni152-t1")
IMPLEMENTATION = "2.25." + str(uuid.uuid5(uuid.NAMESPACE_URL, "urn:overread:demo:make_series").int)


def uid(name: str) -> str:
    """Deterministic UID for a name."""
    return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"


def axial_planes() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Planes ``[slice, row, column]``, LPS position of the first pixel of the first plane, spacing.

    Slices run from feet to head, rows from front to back, columns from the patient's right to the left.
    """
    folder = Path(nilearn.datasets.__file__).parent / "data"
    image = nibabel.as_closest_canonical(nibabel.load(folder / TEMPLATE))  # axes right, anterior, superior
    data = np.asarray(image.dataobj)
    affine = image.affine
    if not np.allclose(affine[:3, :3], np.diag(np.diag(affine[:3, :3]))):
        raise SystemExit("the template is expected to be aligned with the axes")
    spacing = tuple(float(v) for v in np.diag(affine)[:3])
    data = data[::-1, ::-1]  # axes left, posterior, superior
    origin_ras = affine[:3, 3] + [spacing[0] * (data.shape[0] - 1), spacing[1] * (data.shape[1] - 1), 0]
    origin = origin_ras * [-1, -1, 1]
    found = np.argwhere(data > 0)
    low = np.maximum(found.min(0) - MARGIN, 0)
    high = np.minimum(found.max(0) + MARGIN + 1, data.shape)
    cropped = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    planes = np.ascontiguousarray(cropped.transpose(2, 1, 0)).astype(np.uint16) * FACTOR
    return planes, origin + low * spacing, spacing


def common_attributes(spacing: tuple[float, float, float], shape: tuple[int, ...]) -> Dataset:
    """Everything that all instances of the series share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    ds.SOPClassUID = MRImageStorage
    for keyword in ("InstanceCreation", "Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{keyword}Date", DATE)
        setattr(ds, f"{keyword}Time", TIME)
    ds.AccessionNumber = "MNI152-1"
    ds.Modality = "MR"
    ds.Manufacturer = "Overread demo data"
    ds.InstitutionName = "Overread demo data"
    ds.ReferringPhysicianName = ""
    ds.StationName = "DEMO"
    ds.StudyDescription = "Head MR, demonstration"
    ds.SeriesDescription = "T1 MNI152 template"
    ds.ManufacturerModelName = "MNI152 template writer"
    ds.DerivationDescription = "Average of 152 heads, ICBM152 2009a nonlinear symmetric; no single patient"
    ds.PatientName = "MNI152^Template"
    ds.PatientID = "MNI152"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.PatientComments = "Population average template, no real patient"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Average of 152 subjects"
    ds.BodyPartExamined = "BRAIN"
    ds.ScanningSequence = "GR"
    ds.SequenceVariant = "SP"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D"
    ds.SequenceName = "T1_3D"
    ds.SliceThickness = spacing[2]
    ds.RepetitionTime = "18"
    ds.EchoTime = "10"
    ds.NumberOfAverages = "1"
    ds.MagneticFieldStrength = "1.5"
    ds.SpacingBetweenSlices = spacing[2]
    ds.EchoTrainLength = "1"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.ProtocolName = "T1 3D"
    ds.FlipAngle = "30"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = uid("study")
    ds.SeriesInstanceUID = uid("series")
    ds.StudyID = "1"
    ds.SeriesNumber = "2"
    ds.AcquisitionNumber = "1"
    ds.FrameOfReferenceUID = uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = shape[1:]
    ds.PixelSpacing = [spacing[1], spacing[0]]
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.WindowCenter = "500"
    ds.WindowWidth = "1000"
    return ds


def write_series(folder: Path) -> None:
    """Write every plane as one JPEG-LS lossless instance."""
    planes, origin, spacing = axial_planes()
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(planes):
        number = index + 1
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = uid(f"instance {number}")
        meta.TransferSyntaxUID = JPEGLSLossless
        meta.ImplementationClassUID = IMPLEMENTATION
        meta.ImplementationVersionName = "OVERREAD_DEMO"
        ds = FileDataset(None, common_attributes(spacing, planes.shape), file_meta=meta, preamble=b"\0" * 128)
        ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        ds.InstanceNumber = number
        position = origin + np.array([0, 0, index * spacing[2]])
        ds.ImagePositionPatient = [round(float(v), 4) for v in position]
        ds.SliceLocation = round(float(position[2]), 4)
        ds.SmallestImagePixelValue = int(plane.min())
        ds.LargestImagePixelValue = int(plane.max())
        ds.compress(JPEGLSLossless, plane, encoding_plugin="pyjpegls", generate_instance_uid=False)
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    print(f"{len(planes)} instances of {planes.shape[1]} x {planes.shape[2]} in {folder.name}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the MNI152 T1 template as a DICOM series.")
    parser.add_argument("folder", type=Path, help="folder to write")
    write_series(parser.parse_args().folder)


if __name__ == "__main__":
    main()
