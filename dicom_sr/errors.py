"""What can go wrong while findings are written as DICOM.

EncodingError
├── SourceMismatch    the source images are not those of the Result, or cannot carry it
│   └── NothingToShow an image that an object is to show has no pixels that can be decoded
├── InvalidResult     the Result contradicts itself or holds what DICOM cannot say
│   └── InvalidCode   a coded concept does not fit the attributes of PS3.3 Table 8.8-1
├── ArchiveError      a stored Result cannot be read back as it was
└── ProfileError      a destination profile that cannot be used

None of them is worth a retry. Messages name UIDs, counts and attribute keywords, never a value that belongs
to a patient.
"""


class EncodingError(Exception):
    """Findings that cannot be written; the message says what was expected and what was found."""


class SourceMismatch(EncodingError):
    """The source images given are not those of the Result, or lack what a reference to them needs."""


class NothingToShow(SourceMismatch):
    """An image that an object is to show came without its pixels, or with such as cannot be decoded."""


class InvalidResult(EncodingError):
    """The Result contradicts itself: an undescribed label, an unknown segment, two equal names."""


class InvalidCode(InvalidResult):
    """A coded concept whose value, scheme or meaning is empty or too long (PS3.3 8.8, PS3.5 6.2)."""


class ArchiveError(EncodingError):
    """A folder that does not hold a Result, or holds one of another format version."""


class ProfileError(EncodingError):
    """A destination profile that is not there or says what no renderer knows; the message names file and key."""
