"""Voxels of a stack: images read into their place, by several threads, then modality values.

Where one whole-numbered rescale holds for all, integers stay integers and are changed in place: where its range allows
by who reads an image, while it is still in the processor's cache, or before it came to lie where it is read from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from node.volume.pixels import PixelFormat
from node.volume.threads import for_each, reading_threads
from node.volume.values import AS_STORED, Rescale, fits_at_once, rescale_image, rescale_whole, stored_type

ReadImage = Callable[[int, np.ndarray, Rescale], None]
"""Reads the image with this number into a C-contiguous (row, column) array, and rescales it as `rescale_in_place`."""

Allocate = Callable[[tuple[int, int, int], DTypeLike, Rescale | None], np.ndarray]

ABOVE_ALL = int(np.iinfo(np.int32).max)


def allocate_fresh(shape: tuple[int, int, int], dtype: DTypeLike, stays: Rescale | None) -> np.ndarray:
    """Memory for a volume.

    Where nothing changes what `ReadImage` leaves there, `stays` is the rescale that it is asked for; it is given the
    parts of this memory then, each by the number of its image.
    """
    return np.empty(shape, dtype)


@dataclass(frozen=True)
class Reader:
    """`read` is called once for each image, from `threads` threads, each of which takes `at_once` neighbours, after
    `allocate`, which is as `allocate_fresh`.
    """

    read: ReadImage
    threads: int = field(default_factory=reading_threads)
    at_once: int = 1
    allocate: Allocate = allocate_fresh


def read_voxels(
    reader: Reader, forms: Sequence[PixelFormat], rescales: Sequence[Rescale], *, modality: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Modality values of a stack, and what was changed in them, in words.

    Parameters
    ----------
    reader : Reader
    forms, rescales
        Of each image, in slice order.

    Returns
    -------
    ndarray of int16, uint16 or float32, shape (slice, row, column)
    tuple of str
    """
    shape = (len(forms), forms[0].rows, forms[0].columns)
    dtype = stored_type(forms)
    if dtype is not None and rescales[0].is_whole and all(rescale == rescales[0] for rescale in rescales):
        at_once = all(fits_at_once(form, rescales[0]) for form in forms)
        stays = rescales[0] if at_once or rescales[0] == AS_STORED else None
        stored = reader.allocate(shape, dtype, stays)
        return _read_whole(reader, forms, rescales[0], stored, modality, at_once=at_once)
    voxels = reader.allocate(shape, np.float32, None)

    def read(index: int) -> None:
        form = forms[index]
        image = np.empty(shape[1:], np.int16 if form.is_signed else np.uint16)
        reader.read(index, image, AS_STORED)
        lowest, count = _padding(image, form, modality)
        if count:
            _fill_padding(image, form, lowest)
        rescale_image(image, rescales[index], voxels[index])

    for_each(read, len(forms), reader.threads, reader.at_once)
    return voxels, ()


def _read_whole(
    reader: Reader,
    forms: Sequence[PixelFormat],
    rescale: Rescale,
    stored: np.ndarray,
    modality: str,
    *,
    at_once: bool,
) -> tuple[np.ndarray, tuple[str, ...]]:
    def read(index: int) -> tuple[int, int]:
        reader.read(index, stored[index], rescale if at_once else AS_STORED)
        return _padding(stored[index], forms[index], modality)

    found = for_each(read, len(forms), reader.threads, reader.at_once)
    if at_once:
        return stored.view(np.int16), ()
    lowest, count = min(low for low, _ in found), sum(number for _, number in found)
    if count:
        for image, form in zip(stored, forms, strict=True):
            _fill_padding(image, form, lowest)
    return rescale_whole(stored, rescale), _padding_note(count)


def _padding(image: np.ndarray, form: PixelFormat, modality: str) -> tuple[int, int]:
    """The lowest stored value that is no padding, and how many pixels are padding.

    Padding matters in CT only, where values have an absolute meaning; in MR the padding value is the
    background.
    """
    if form.padding is None or modality != "CT":
        return ABOVE_ALL, 0
    low, high = form.padding
    if image.min() > high or image.max() < low:
        return ABOVE_ALL, 0
    outside = (image >= low) & (image <= high)
    count = int(np.count_nonzero(outside))
    if not count or count == outside.size:
        return ABOVE_ALL, 0
    return int(image[~outside].min()), count


def _fill_padding(image: np.ndarray, form: PixelFormat, lowest: int) -> None:
    """Pixels outside the reconstructed field get the lowest value that was measured in the series."""
    if form.padding is not None:
        image[(image >= form.padding[0]) & (image <= form.padding[1])] = lowest


def _padding_note(count: int) -> tuple[str, ...]:
    return (f"{count} pixels outside the field of view were given the lowest value measured.",) if count else ()
