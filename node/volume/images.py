"""Images without a place in patient space: projections (CR, DX, MG, tomosynthesis), ultrasound and angiography loops,
secondary captures. One file becomes one `ImageSet`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from node.errors import Transient
from node.volume.colour import look_up, to_rgb
from node.volume.decode import check_readable, find_frames, read_stored_values
from node.volume.decoders import Decoders
from node.volume.groups import base_header, frame_header, has_groups
from node.volume.instance import Instance, open_instance, read_instance
from node.volume.known import KnownInstance
from node.volume.load import images_reader, log_corrections
from node.volume.pixels import PALETTE, PixelFormat, read_image_format
from node.volume.presentation import Presentation, read_presentation
from node.volume.reason import Reason, refusal
from node.volume.slices import Slice
from node.volume.spacing import read_pixel_size
from node.volume.threads import for_each
from node.volume.values import AS_STORED, Rescale, read_rescale, rescale_image, value_range

LARGEST_IMAGE_SET_BYTES = 1 << 32
"""Largest set of frames read (4 GiB); more is refused before it is allocated."""

NO_IMAGES = frozenset(
    {
        uid.SegmentationStorage,
        uid.UID("1.2.840.10008.5.1.4.1.1.66.7"),
        uid.ParametricMapStorage,
        uid.RTDoseStorage,
        uid.VLWholeSlideMicroscopyImageStorage,
    }
)
"""SOP Classes whose pixels are labels, quantities, doses or tiles, not an image to be looked at."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The frames of one image.

    Parameters
    ----------
    pixels : ndarray, shape (frame, row, column) or (frame, row, column, 3)
        Monochrome: modality values (uint8, int16, uint16 or float32), larger is brighter: those of MONOCHROME1 are
        turned about the middle of their range. Colour: RGB (uint8 or uint16). Read-only.
    header : Dataset
        The data set without pixel data.
    spacing_mm : tuple of float, optional
        Distance of pixel centres (row, column); what it refers to is told in `corrections`.
    padding : ndarray of bool, shape (frame, row, column), optional
        Pixels that are no part of the image (Pixel Padding Value). They hold the lowest value that was measured.
    corrections : tuple of str
        What was corrected or has to be known, in words for the report.
    sop_instance_uid : str
    presentations : tuple of Presentation
        How each frame is shown; one for all where they are alike.
    """

    pixels: np.ndarray
    header: Dataset = field(repr=False)
    spacing_mm: tuple[float, float] | None
    padding: np.ndarray | None = field(repr=False)
    corrections: tuple[str, ...]
    sop_instance_uid: str
    presentations: tuple[Presentation, ...] = field(default=(Presentation(),), repr=False)

    @property
    def is_colour(self) -> bool:
        """Whether pixels are RGB."""
        return self.pixels.ndim == 4

    def presented(self) -> np.ndarray:
        """What a display shows, float32 from 0 (black) to 1, same shape as `pixels`: after the first VOI LUT or window
        of the header, else between lowest and highest value (PS3.3 C.11.2). Colour is only scaled.
        """
        if self.is_colour:
            return self.pixels.astype(np.float32) / np.float32(np.iinfo(self.pixels.dtype).max)
        shown = np.empty(self.pixels.shape, np.float32)
        if len(self.presentations) == 1:
            shown[...] = self.presentations[0].apply(self.pixels, self.padding)
            return shown
        for index, presentation in enumerate(self.presentations):
            outside = None if self.padding is None else self.padding[index]
            shown[index] = presentation.apply(self.pixels[index], outside)
        return shown


def load_image(path: Path, known: KnownInstance | None = None, decoders: Decoders | None = None) -> ImageSet:
    """Load one projection image, loop or secondary capture.

    Parameters
    ----------
    path : Path
        A Part 10 file.
    known : KnownInstance, optional
        What reception noted of it: another instance in its place is refused.
    decoders : Decoders, optional
        As of `load_volume`.

    Raises
    ------
    NotAnalysed
        With a code of `Reason`, the value found and the value wanted.
    Transient
        When the file cannot be read, or memory does not suffice.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        instance = read_instance(Path(path), 1)
        _check_instance(instance, known)
        form = read_image_format(instance.header, instance.name)
        headers = _frame_headers(instance.header, form.frames)
        rescales = [read_rescale(header, instance.name) for header in headers]
        try:
            stored = _read_frames(instance, form, decoders)
            images = _image_set(instance, form, headers, rescales, stored)
        except MemoryError:
            raise Transient(f"not enough memory for {form.frames} frames of {instance.name}") from None
        except OSError as error:
            raise Transient(f"{instance.name} cannot be read: {error.strerror or type(error).__name__}") from None
        log_corrections(images.header, images.corrections)
        return images


def _check_instance(instance: Instance, known: KnownInstance | None) -> None:
    header = instance.header
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not header.get(keyword):
            raise refusal(Reason.MISSING_GEOMETRY, f"{instance.name} has no {keyword}; wanted a UID")
    if known is not None and known.sop_instance_uid != str(header.SOPInstanceUID):
        raise refusal(
            Reason.NOT_DICOM,
            f"found {instance.name} in the place of instance {known.sop_instance_uid}: the file is another",
        )
    sop_class = uid.UID(str(header.get("SOPClassUID", "")))
    if not sop_class or sop_class in NO_IMAGES:
        raise refusal(Reason.UNSUPPORTED_MODALITY, f"found SOP Class {sop_class.name or 'none'}; wanted an image")
    check_readable(instance)


def _frame_headers(header: Dataset, frames: int) -> list[Dataset]:
    """A header for each frame where functional groups describe them, else one for all."""
    if not has_groups(header):
        return [header]
    base = base_header(header)
    return [frame_header(header, base, frame) for frame in range(frames)]


def _read_frames(instance: Instance, form: PixelFormat, decoders: Decoders | None) -> np.ndarray:
    """Stored samples, shape (frame, row, column) or (frame, row, column, 3); colour as RGB."""
    size = form.frames * form.frame_bytes
    if size > LARGEST_IMAGE_SET_BYTES:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"{instance.name} is too large: found {size} bytes, wanted at most {LARGEST_IMAGE_SET_BYTES}",
        )
    is_rgb = form.samples == 3
    with open_instance(instance.path) as stream:
        places = find_frames(stream, instance, form)
        stored = np.empty((form.frames, *form.frame_shape), form.dtype)
        if not places:
            for index, frame in enumerate(stored):
                read_stored_values(stream, instance, form, frame, frame=index)
                if is_rgb:
                    to_rgb(frame, form, instance.transfer_syntax_uid, instance.name)
            return stored
    frames = [Slice(instance, instance.header, form, number, places) for number in range(1, form.frames + 1)]
    with images_reader(frames, decoders) as reader:

        def read(index: int) -> None:
            reader.read(index, stored[index], AS_STORED)
            if is_rgb:
                to_rgb(stored[index], form, instance.transfer_syntax_uid, instance.name)

        for_each(read, form.frames, reader.threads)
    return stored


def _image_set(
    instance: Instance, form: PixelFormat, headers: Sequence[Dataset], rescales: Sequence[Rescale], stored: np.ndarray
) -> ImageSet:
    encoding = {"is_little_endian": instance.is_little_endian}
    size = read_pixel_size(headers[0])
    padding: np.ndarray | None = None
    presentations: tuple[Presentation, ...] = (Presentation(),)
    remarks: tuple[str, ...] = ()
    if form.photometric_interpretation == PALETTE:
        pixels = look_up(stored, instance.header, instance.name, is_signed=form.is_signed, **encoding)
    elif form.samples == 3:
        pixels = stored
    else:
        padding = _padding(stored, form)
        ranges = [value_range(form, rescale) for rescale in rescales]
        is_turned = form.photometric_interpretation == "MONOCHROME1"
        pixels = _modality_values(stored, rescales, ranges, is_turned)
        presentations = tuple(
            read_presentation(header, is_signed=low < 0, turned_about=low + high if is_turned else None, **encoding)
            for header, (low, high) in zip(headers, ranges, strict=True)
        )
        if padding is not None:
            pixels[padding] = pixels[~padding].min()
        remarks = _remarks(padding, is_turned, presentations)
    pixels.setflags(write=False)
    return ImageSet(
        pixels=pixels,
        header=instance.header,
        spacing_mm=size.spacing_mm,
        padding=padding,
        corrections=(*size.remarks, *remarks),
        sop_instance_uid=str(instance.header.SOPInstanceUID),
        presentations=presentations,
    )


def _padding(stored: np.ndarray, form: PixelFormat) -> np.ndarray | None:
    """Pixels that are no part of the image; None where there are none, or nothing else."""
    if form.padding is None:
        return None
    low, high = form.padding
    outside = (stored >= low) & (stored <= high)
    return outside if outside.any() and not outside.all() else None


def _modality_values(
    stored: np.ndarray, rescales: Sequence[Rescale], ranges: Sequence[tuple[float, float]], is_turned: bool
) -> np.ndarray:
    """Modality values in the smallest type that holds what the format allows; overwrites `stored` where it can."""
    lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
    is_whole = all(rescale.is_whole or rescale.table is not None for rescale in rescales)
    types = (np.uint8, np.int16, np.uint16) if is_whole else ()
    fitting = [each for each in types if np.iinfo(each).min <= lowest and highest <= np.iinfo(each).max]
    dtype = np.dtype(fitting[0] if fitting else np.float32)
    is_same = all(rescale == Rescale() for rescale in rescales) and not is_turned
    if is_same and stored.dtype.itemsize == dtype.itemsize and dtype.kind in "iu":
        return stored.view(dtype)
    pixels = np.empty(stored.shape, dtype)
    plane = np.empty(stored.shape[1:], np.float32)
    for index, frame in enumerate(stored):
        which = min(index, len(rescales) - 1)
        rescale_image(frame, rescales[which], plane)
        if is_turned:
            np.subtract(np.float32(sum(ranges[which])), plane, out=plane)
        pixels[index] = plane
    return pixels


def _remarks(padding: np.ndarray | None, is_turned: bool, presentations: Sequence[Presentation]) -> tuple[str, ...]:
    found = []
    if is_turned:
        found.append("The image is stored inverted (MONOCHROME1) and was turned: larger values are brighter.")
    if padding is not None:
        count = int(np.count_nonzero(padding))
        found.append(f"{count} pixels outside the image (padding) were given the lowest value measured.")
    return (*found, *dict.fromkeys(remark for each in presentations for remark in each.remarks))
