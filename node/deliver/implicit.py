"""A DICOM file in Implicit VR Little Endian, for archives that take nothing else (PS3.5 A.1 is the default syntax)."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from node.deliver.part10 import read_file_meta


@contextmanager
def in_implicit_vr(paths: Sequence[Path], sop_classes: set[str]) -> Iterator[list[Path]]:
    """The files, those of the given SOP classes converted; the conversions are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="overread-") as folder:
        yield [
            _converted(path, Path(folder) / f"{number}.dcm")
            if read_file_meta(path).sop_class_uid in sop_classes
            else path
            for number, path in enumerate(paths)
        ]


def _converted(path: Path, target: Path) -> Path:
    data_set = dcmread(path)
    data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data_set.save_as(target, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return target
