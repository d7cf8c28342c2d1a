"""From stored values to modality values (PS3.3 C.11.1): Hounsfield units for CT, signal for MR.

Integers stay integers: int16 where every value fits, else uint16; float32 only where slope or intercept are
not whole, differ from slice to slice, or the range needs it (whole numbers up to 2^24 are exact in it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.volume.pixels import VALUE_ERRORS, PixelFormat, is_given, numbers
from node.volume.reason import Reason, refusal
from node.volume.tables import LookupTable, read_sequence_table

RESCALE_TAGS = tuple(Tag(keyword) for keyword in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"))
"""What `read_rescale` reads."""


@dataclass(frozen=True)
class Rescale:
    """value = stored x slope + intercept; `table` when a Modality LUT Sequence takes its place."""

    slope: float = 1.0
    intercept: float = 0.0
    table: LookupTable | None = None

    def times(self, factor: float) -> "Rescale":
        """The same with its result multiplied; what a table gives is left as it is."""
        if factor == 1 or self.table is not None:
            return self
        return Rescale(self.slope * factor, self.intercept * factor)

    @property
    def is_whole(self) -> bool:
        """Whether integers stay integers."""
        return self.table is None and self.slope.is_integer() and self.intercept.is_integer()


AS_STORED = Rescale()
"""Changes nothing."""


def read_rescale(header: Dataset, name: str) -> Rescale:
    """Modality LUT of one image; identity when the header has none.

    Raises
    ------
    NotAnalysed
        ``unsupported-pixel-format`` when slope or intercept are there, but no finite numbers, or the slope
        is 0.
    """
    if header.get("ModalityLUTSequence"):
        return Rescale(table=_read_table(header, name))
    parts = []
    for keyword, absent in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        found = numbers(header, keyword, 1)
        if found is None and is_given(header, keyword):
            raise refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: {keyword} is no finite number")
        parts.append(found[0] if found else absent)
    if parts[0] == 0:
        raise refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: found RescaleSlope 0, wanted another number")
    return Rescale(parts[0], parts[1])


def _read_table(header: Dataset, name: str) -> LookupTable:
    is_little_endian = header.original_encoding[1] is not False
    try:
        return read_sequence_table(
            header,
            "ModalityLUTSequence",
            is_signed=header.get("PixelRepresentation") == 1,
            is_little_endian=is_little_endian,
        )
    except (*VALUE_ERRORS, IndexError) as error:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: the Modality LUT cannot be used ({type(error).__name__})"
        ) from None


def stored_type(forms: Sequence[PixelFormat]) -> type[np.int16] | type[np.uint16] | None:
    """The one 16 bit type that holds the stored values of all images, or None when signed and large
    unsigned ones mix.
    """
    ranges = [form.stored_range for form in forms]
    if min(low for low, _ in ranges) >= 0 and max(high for _, high in ranges) > 32767:
        return np.uint16
    return np.int16 if max(high for _, high in ranges) <= 32767 else None


def fits_at_once(form: PixelFormat, rescale: Rescale) -> bool:
    """Whether an image can be rescaled as soon as it is read: every stored value that the format allows becomes an
    int16, and no padding has to be looked for before.
    """
    if not rescale.is_whole or form.padding is not None:
        return False
    ends = [value * int(rescale.slope) + int(rescale.intercept) for value in form.stored_range]
    return min(ends) >= -32768 and max(ends) <= 32767


def rescale_in_place(stored: np.ndarray, rescale: Rescale) -> None:
    """Whole-numbered rescale of values that fit 16 bits before and after; the caller reads them in the type that holds
    them.
    """
    # Arithmetic modulo 2^16 is exact because both the stored value and the result are known to fit.
    slope, intercept = int(rescale.slope), int(rescale.intercept)
    if slope != 1:
        bits = stored.view(np.uint16)
        np.multiply(bits, np.array(slope % 65536, np.uint16), out=bits)
    if intercept:
        bits = stored.view(np.uint16)
        np.add(bits, np.array(intercept % 65536, np.uint16), out=bits)


def rescale_whole(stored: np.ndarray, rescale: Rescale) -> np.ndarray:
    """Modality values of a volume with one whole-numbered rescale; in place where the type holds them.

    Parameters
    ----------
    stored : ndarray of int16 or uint16
        Is overwritten.

    Returns
    -------
    ndarray of int16, uint16 or float32
    """
    slope, intercept = int(rescale.slope), int(rescale.intercept)
    ends = [int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept]
    lowest, highest = min(ends), max(ends)
    for dtype in (np.int16, np.uint16):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            rescale_in_place(stored, rescale)
            return stored.view(dtype)
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def rescale_image(stored: np.ndarray, rescale: Rescale, into: np.ndarray) -> None:
    """Modality values of one image into a float32 plane; computed in double precision and rounded once."""
    if rescale.table is None:
        into[...] = stored.astype(np.float64) * rescale.slope + rescale.intercept
    else:
        into[...] = rescale.table.apply(stored)


def value_range(form: PixelFormat, rescale: Rescale) -> tuple[float, float]:
    """Lowest and highest modality value that the format allows."""
    if rescale.table is not None:
        return float(rescale.table.entries.min()), float(rescale.table.entries.max())
    low, high = sorted(value * rescale.slope + rescale.intercept for value in form.stored_range)
    return low, high
