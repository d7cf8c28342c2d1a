"""Colour as RGB: luminance and chrominance converted, palettes looked up (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5). Pure."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from node.volume.codecs import JPEG_XL, JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION
from node.volume.pixels import VALUE_ERRORS, PixelFormat
from node.volume.reason import Reason, refusal
from node.volume.tables import read_lookup_table

DECODED_TO_RGB = frozenset({JPEG_XL, JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION})
"""Transfer syntaxes whose decoder undoes the colour transform, whatever it was."""

FRACTION_BITS = 16
_HALF = 1 << (FRACTION_BITS - 1)
_CHROMA = np.arange(256, dtype=np.int32) - 128


def _table(factor: float) -> np.ndarray:
    return np.asarray(np.rint(_CHROMA * (factor * (1 << FRACTION_BITS))), dtype=np.int32)


RED_OF_CR, BLUE_OF_CB = (_table(1.402) + _HALF) >> FRACTION_BITS, (_table(1.772) + _HALF) >> FRACTION_BITS
GREEN_OF_CB, GREEN_OF_CR = _table(-0.344136), _table(-0.714136)


def to_rgb(samples: np.ndarray, form: PixelFormat, syntax: uid.UID, name: str) -> None:
    """Convert one frame of a colour image, shape (row, column, 3), to RGB in place.

    Raises
    ------
    NotAnalysed
        ``unsupported-pixel-format`` for luminance and chrominance of more than 8 bits.
    """
    if form.photometric_interpretation not in ("YBR_FULL", "YBR_FULL_422") or syntax in DECODED_TO_RGB:
        return
    if form.bits_stored != 8:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"{name}: found {form.photometric_interpretation} of {form.bits_stored} bits, wanted 8",
        )
    light = samples[..., 0].astype(np.int32)
    blue, red = samples[..., 1], samples[..., 2]
    green = light + ((GREEN_OF_CB[blue] + GREEN_OF_CR[red] + _HALF) >> FRACTION_BITS)
    reds, blues = light + RED_OF_CR[red], light + BLUE_OF_CB[blue]
    for index, channel in enumerate((reds, green, blues)):
        samples[..., index] = np.clip(channel, 0, 255)


def look_up(stored: np.ndarray, header: Dataset, name: str, *, is_signed: bool, is_little_endian: bool) -> np.ndarray:
    """RGB of a PALETTE COLOR image, shape (..., 3), in the depth of its palette (uint8 or uint16).

    Raises
    ------
    NotAnalysed
        ``unsupported-pixel-format`` when a palette is missing or damaged.
    """
    try:
        if "RedPaletteColorLookupTableData" not in header:
            count, first = header.RedPaletteColorLookupTableDescriptor[0] or 65536, _first(header, is_signed)
            return np.asarray(apply_color_lut(np.clip(stored, first, first + count - 1), header))[..., :3]
        tables = [
            read_lookup_table(
                header[f"{colour}PaletteColorLookupTableDescriptor"].value,
                header[f"{colour}PaletteColorLookupTableData"].value,
                is_signed=is_signed,
                is_little_endian=is_little_endian,
            )
            for colour in ("Red", "Green", "Blue")
        ]
    except (*VALUE_ERRORS, IndexError) as error:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: its colour palette cannot be used ({type(error).__name__})"
        ) from None
    deepest = np.uint16 if max(table.bits for table in tables) > 8 else np.uint8
    rgb = np.empty((*stored.shape, 3), deepest)
    for index, table in enumerate(tables):
        rgb[..., index] = table.apply(stored)
    return rgb


def _first(header: Dataset, is_signed: bool) -> int:
    first = int(header.RedPaletteColorLookupTableDescriptor[1])
    return (first + 0x8000) % 0x10000 - 0x8000 if is_signed else first
