"""From modality values to what a display shows: VOI LUT, windows, and which end is bright (PS3.3 C.11.2, C.11.6)."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.volume.pixels import VALUE_ERRORS, is_given
from node.volume.tables import LookupTable, read_sequence_table

LINEAR, LINEAR_EXACT, SIGMOID = "LINEAR", "LINEAR_EXACT", "SIGMOID"


@dataclass(frozen=True, eq=False)
class Presentation:
    """How modality values of a monochrome image become display values from 0 (black) to 1.

    Parameters
    ----------
    centre, width : float, optional
        The first window of the header.
    function : {'LINEAR', 'LINEAR_EXACT', 'SIGMOID'}
    table : LookupTable, optional
        The first VOI LUT of the header; comes before a window.
    turned_about : float, optional
        For MONOCHROME1: lowest plus highest modality value, about which the pixels were turned.
    remarks : tuple of str
        What could not be used.
    """

    centre: float | None = None
    width: float | None = None
    function: str = LINEAR
    table: LookupTable | None = None
    turned_about: float | None = None
    remarks: tuple[str, ...] = ()

    def apply(self, pixels: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray:
        """Display values, float32 of the same shape; black where `outside`. Without a window, lowest and highest value
        are the ends.
        """
        values = pixels.astype(np.float32)
        if self.turned_about is not None:
            np.subtract(np.float32(self.turned_about), values, out=values)
        if self.table is not None:
            shown = self.table.apply(np.rint(values)).astype(np.float32)
            shown /= np.float32((1 << self.table.bits) - 1)
        elif self.centre is not None and self.width is not None:
            shown = window(values, self.centre, self.width, self.function)
        else:
            inside = values if outside is None or outside.all() else values[~outside]
            low, high = float(inside.min()), float(inside.max())
            shown = (values - np.float32(low)) / np.float32(high - low or 1.0)
        np.clip(shown, 0, 1, out=shown)
        if self.turned_about is not None:
            np.subtract(np.float32(1), shown, out=shown)
        if outside is not None:
            shown[outside] = 0
        return shown


def window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """The VOI LUT function (PS3.3 C.11.2.1.2, C.11.2.1.3), scaled to 0..1; float32, not yet clipped for LINEAR."""
    if function == SIGMOID:
        slope = np.float32(-4 / width)
        return np.asarray(1 / (1 + np.exp(np.clip(slope * (values - np.float32(centre)), -80, 80))))
    if function == LINEAR_EXACT:
        return np.asarray((values - np.float32(centre)) / np.float32(width) + np.float32(0.5))
    if width <= 1:  # a step: C.11.2.1.2.1
        return (values > np.float32(centre - 0.5)).astype(np.float32)
    return np.asarray((values - np.float32(centre - 0.5)) / np.float32(width - 1) + np.float32(0.5))


def read_presentation(
    header: Dataset, *, is_signed: bool, is_little_endian: bool, turned_about: float | None
) -> Presentation:
    """The first VOI LUT or window of a header; remarks where there is one that cannot be used.

    `is_signed` says whether modality values can be negative, `is_little_endian` how the data set was encoded.
    """
    if is_given(header, "VOILUTSequence"):
        try:
            table = read_sequence_table(
                header, "VOILUTSequence", is_signed=is_signed, is_little_endian=is_little_endian
            )
            return Presentation(table=table, turned_about=turned_about)
        except (*VALUE_ERRORS, IndexError):
            return Presentation(turned_about=turned_about, remarks=("The VOI LUT of the image cannot be used.",))
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if centre is None and width is None:
        return Presentation(turned_about=turned_about)
    function = str(header.get("VOILUTFunction") or LINEAR).strip().upper()
    least = 1.0 if function == LINEAR else 0.0
    is_usable = centre is not None and width is not None and np.isfinite([centre, width]).all()
    if (
        not is_usable
        or function not in (LINEAR, LINEAR_EXACT, SIGMOID)
        or width is None
        or not width >= least
        or not width
    ):
        return Presentation(turned_about=turned_about, remarks=("The window of the image cannot be used.",))
    return Presentation(centre, width, function, turned_about=turned_about)


def _first(header: Dataset, keyword: str) -> float | None:
    try:
        value = header.get(keyword)
        if isinstance(value, MultiValue | list | tuple):
            value = value[0] if value else None
        return None if value is None or value == "" else float(value)
    except VALUE_ERRORS:
        return None
