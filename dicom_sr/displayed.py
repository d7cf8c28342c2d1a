"""Source images as a viewer shows them, for objects that show images themselves."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

LOWEST, HIGHEST = 1.0, 99.0
"""Percentiles of the values that become black and white where an image has no window."""


def displayed_frame(source: Dataset, frame_number: int | None = None) -> np.ndarray | None:
    """A frame as grey values: Modality LUT, VOI LUT or window, MONOCHROME1 turned.

    Parameters
    ----------
    source : Dataset
        With its Pixel Data; colour images become grey.
    frame_number : int, optional
        From 1, in a multi-frame image.

    Returns
    -------
    ndarray of uint8, shape (row, column), or None where the image has no pixels, or none that can be decoded.
    """
    if "PixelData" not in source or not getattr(source, "file_meta", None):
        return None
    try:
        values = pixel_array(source, index=(frame_number or 1) - 1)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError):
        return None  # a picture is left out rather than the page
    if values.ndim == 3:
        values = values.mean(axis=-1)
    has_window = any(source.get(keyword) for keyword in ("WindowCenter", "VOILUTSequence"))
    shown = np.asarray(apply_modality_lut(values, source), np.float64)
    if has_window:
        shown = np.asarray(apply_voi_lut(shown, source), np.float64)
        low, high = float(shown.min()), float(shown.max())
    else:
        low, high = (float(value) for value in np.percentile(shown, (LOWEST, HIGHEST)))
    scaled = np.clip((shown - low) / max(high - low, 1e-9), 0, 1)
    if source.get("PhotometricInterpretation") == "MONOCHROME1":
        scaled = 1 - scaled
    return np.asarray(np.rint(scaled * 255), np.uint8)
