"""Small data sets of DIMSE messages: to bytes and back. pydicom reads and writes; nothing here is a file."""

from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"


def encode_implicit(data_set: Dataset) -> bytes:
    """The data set in Implicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


def decode(content: bytes, transfer_syntax_uid: str = IMPLICIT_VR_LITTLE_ENDIAN) -> Dataset:
    """The data set in these bytes, little endian. Raises whatever pydicom raises for bytes that are none."""
    is_implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    return read_dataset(BytesIO(content), is_implicit_VR=is_implicit, is_little_endian=True)
