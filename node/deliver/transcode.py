"""A DICOM file in another transfer syntax, for archives that do not take the one it is kept in (PS3.5 Annex A)."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian

from node.deliver.fallback import Refusals
from node.deliver.part10 import read_file_meta


@contextmanager
def in_accepted_syntaxes(paths: Sequence[Path], refusals: Refusals) -> Iterator[list[Path]]:
    """The files, those in a refused transfer syntax converted; the conversions are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="overread-") as folder:
        accepted = []
        for number, path in enumerate(paths):
            file = read_file_meta(path)
            syntax = refusals.syntax_for(file.sop_class_uid, file.transfer_syntax_uid)
            is_kept = syntax == file.transfer_syntax_uid
            accepted.append(path if is_kept else _convert(path, Path(folder) / f"{number}.dcm", UID(syntax)))
        yield accepted


def _convert(path: Path, target: Path, syntax: UID) -> Path:
    """Write a file in an uncompressed transfer syntax. Nothing is lost, so that it stays the same instance."""
    data_set = dcmread(path)
    if data_set.file_meta.TransferSyntaxUID.is_encapsulated:
        data_set.decompress(generate_instance_uid=False)
    data_set.file_meta.TransferSyntaxUID = syntax
    is_implicit = syntax == ImplicitVRLittleEndian
    data_set.save_as(target, implicit_vr=is_implicit, little_endian=True, enforce_file_format=True)
    return target
