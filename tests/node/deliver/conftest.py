"""Objects to deliver, and destinations to deliver them to."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.settings import Destination
from tests.counterparts import LOOPBACK

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


def write_object(path: Path, sop_class_uid: str, size_bytes: int = 3000, syntax: str = ExplicitVRLittleEndian) -> Path:
    """An object of this SOP class; its bulk is in Pixel Data, which no part of delivery looks at."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class_uid, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "Canary^Carla", "CANARY-77"
    made.StudyDate = made.StudyTime = made.AccessionNumber = made.StudyID = made.ReferringPhysicianName = ""
    made.PatientBirthDate = made.PatientSex = ""
    made.Modality, made.SeriesNumber, made.InstanceNumber = "OT", 1, 1
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 1, 1, 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = (bytes(range(251)) * (size_bytes // 251 + 1))[: size_bytes + size_bytes % 2]
    made["PixelData"].VR = "OB"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def result_objects(tmp_path: Path) -> list[Path]:
    """A segmentation and the report that refers to it, in order of delivery."""
    return [
        write_object(tmp_path / "result" / "segmentation.dcm", SEGMENTATION, 100_001),
        write_object(tmp_path / "result" / "report.dcm", REPORT),
    ]


@pytest.fixture
def destination_at() -> Callable[..., Destination]:
    """Make a destination on loopback."""

    def make(port: int, ae_title: str = "FAULTY", name: str = "pacs") -> Destination:
        return Destination(name=name, kind="dimse", ae_title=ae_title, host=LOOPBACK, port=port)

    return make
