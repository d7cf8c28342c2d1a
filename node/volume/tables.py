"""Lookup tables of a header (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5, C.7.6.3.1.6), whichever way they were written."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue


@dataclass(frozen=True, eq=False)
class LookupTable:
    """`entries[0]` is the output for all values up to `first`, the last one for all behind; `bits` of an entry."""

    first: int
    entries: np.ndarray
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Output for integer values; uint8 or uint16."""
        places = np.clip(values.astype(np.int32) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[places])


def read_lookup_table(
    descriptor: object, content: object, *, is_signed: bool, is_little_endian: bool = True
) -> LookupTable:
    """A table from its descriptor and its data.

    Parameters
    ----------
    descriptor : sequence of 3 int
        Number of entries (0 for 65536), first value mapped, bits of an entry.
    content : bytes or sequence of int
        As pydicom reads OW or US. Entries of 8 bits may lie one or two in a word.
    is_signed : bool
        Whether the values to be mapped can be negative: "first value mapped" is then SS, whatever it was written as.
    is_little_endian : bool
        Of `content` when it is bytes.

    Raises
    ------
    ValueError
        When it is no table.
    """
    if not isinstance(descriptor, MultiValue | list | tuple) or len(descriptor) != 3:
        raise ValueError("a LUT descriptor has three values")
    count, first, bits = int(descriptor[0]) % 65536 or 65536, int(descriptor[1]), int(descriptor[2])
    if not 1 <= bits <= 16:
        raise ValueError("a LUT entry has up to 16 bits")
    if isinstance(content, bytes):
        is_packed = len(content) < 2 * count and bits <= 8
        kind = np.dtype(np.uint8) if is_packed else np.dtype("<u2" if is_little_endian else ">u2")
        entries: np.ndarray = np.frombuffer(content, kind, min(count, len(content) // kind.itemsize))
    elif isinstance(content, MultiValue | list | tuple):
        words = np.array(content, dtype=np.int64)
        is_packed = len(words) * 2 >= count > len(words) and bits <= 8  # two in a word, the first in its low byte
        entries = np.stack([words & 255, words >> 8], axis=1).reshape(-1) if is_packed else words
    else:
        raise ValueError("LUT data are missing")
    if len(entries) < count or int(entries.min()) < 0 or int(entries.max()) > 65535:
        raise ValueError("LUT data are shorter than their descriptor says")
    wanted = np.uint8 if bits <= 8 and int(entries[:count].max()) < 256 else np.uint16
    if is_signed:
        first = (first + 0x8000) % 0x10000 - 0x8000
    return LookupTable(first, entries[:count].astype(wanted), bits)


def read_sequence_table(header: Dataset, keyword: str, *, is_signed: bool, is_little_endian: bool) -> LookupTable:
    """The table in the first item of a Modality LUT or VOI LUT Sequence; raises what pydicom does, and ValueError."""
    item = header[keyword].value[0]
    return read_lookup_table(item.LUTDescriptor, item.LUTData, is_signed=is_signed, is_little_endian=is_little_endian)
