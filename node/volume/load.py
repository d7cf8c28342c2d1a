"""Load one series: headers, checks, order, pixels. The edge of this room: it reads files and does nothing
else.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.errors import NotAnalysed, Transient
from node.logs import get_logger
from node.volume.alone import BrokenDecoder
from node.volume.decoders import Decoders
from node.volume.geometry import Plane, Stack, stack_planes
from node.volume.instance import Instance, read_instance
from node.volume.known import KnownInstance, NotAsKnown, read_known
from node.volume.pixels import PixelFormat, is_given, numbers
from node.volume.reason import Reason, refusal
from node.volume.slices import Slice, shared, slices_of
from node.volume.split import DISTINGUISHING, choose_part, raw_value, split_slices
from node.volume.suv import SuvScale, suv_scale
from node.volume.values import RESCALE_TAGS, Rescale, read_rescale
from node.volume.volume import Volume
from node.volume.voxels import Reader, allocate_fresh, read_voxels

MODALITIES = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
    uid.PositronEmissionTomographyImageStorage: "PT",
    uid.EnhancedPETImageStorage: "PT",
    uid.LegacyConvertedEnhancedPETImageStorage: "PT",
}
LARGEST_VOLUME_BYTES = 1 << 32
"""Largest volume of 16 bit values read (4 GiB); more is refused before it is allocated."""

NEIGHBOURS_BYTES = 1 << 22
"""Plain images that one thread reads at once, so that each page of memory (2 MiB) is filled by one thread."""

DIRECTION_TAGS = (Tag("ImageOrientationPatient"), Tag("PixelSpacing"))


def load_volume(
    paths: Sequence[Path],
    known: Sequence[KnownInstance] = (),
    decoders: Decoders | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Volume:
    """Load the CT, MR or PT images of one series as one volume: single-frame instances or enhanced multi-frame ones.

    Parameters
    ----------
    paths : sequence of Path
        Part 10 files of one series, in any order.
    known : sequence of KnownInstance
        What reception noted of the same files: plain images are then read without their headers. The result is the
        same, but for the headers after the first, which hold only what names and places an image.
    decoders : Decoders, optional
        What keeps decoded images, and sees to it that a decoder that breaks down does so once.
    check : callable
        Called before each compressed image, from several threads; may raise to stop.

    Raises
    ------
    NotAnalysed
        With a code of `Reason`, the value found and the value wanted; also where single-frame images make several
        volumes. Of those that multi-frame ones make one is taken, and `corrections` say which.
    Transient
        When a file cannot be read, or memory does not suffice.
    """
    _check_any(paths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        volume = (_load_known(known, decoders, check) if known else None) or _load(paths, decoders, check)
    log_corrections(volume.headers[0], volume.corrections)
    return volume


def load_volumes(paths: Sequence[Path], decoders: Decoders | None = None) -> dict[str, Volume]:
    """All volumes that the images of one series make, by what sets them apart (echo, time, b-value, phase, energy).

    One volume has the name ``""``. Raises as `load_volume`.
    """
    _check_any(paths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modality, slices = _read_headers(paths)
        return {
            name: _load_slices(part, modality, decoders, lambda: None) for name, part in split_slices(slices).items()
        }


def log_corrections(header: Dataset, corrections: Sequence[str]) -> None:
    """Say in the log, too, what was corrected or has to be known of an input; the words hold no value of a patient."""
    if corrections:
        log = get_logger("volume")
        log.info("input_corrected", series=str(header.SeriesInstanceUID), corrections=list(corrections))


def _check_any(paths: Sequence[Path]) -> None:
    if not paths:
        raise refusal(Reason.TOO_FEW_SLICES, "the series has 0 slices; wanted at least 2")


def _load_known(known: Sequence[KnownInstance], decoders: Decoders | None, check: Callable[[], None]) -> Volume | None:
    """The volume of plain images by what is known of them; None when they have to be read one by one."""
    check()
    found = read_known(known)
    if found is None or MODALITIES.get(uid.UID(str(found.first.header.get("SOPClassUID", "")))) not in ("CT", "MR"):
        return None
    modality = _check_series([found.first])
    count = len(found.headers)
    if count * found.form.frame_bytes > LARGEST_VOLUME_BYTES:
        return None
    forms, rescales = [found.form] * count, [found.rescale] * count
    try:
        if found.is_plain:
            at_once = max(1, NEIGHBOURS_BYTES // found.form.frame_bytes)
            allocate = decoders.allocate if decoders else allocate_fresh
            reader = Reader(found.read_image, at_once=at_once, allocate=allocate)
            voxels, corrections = _voxels(reader, forms, rescales, modality=modality)
        else:
            with images_reader(found.slices, decoders, check) as reader:
                voxels, corrections = _voxels(_as_known(reader), forms, rescales, modality=modality)
    except NotAsKnown:
        return None
    return _volume(voxels, found.stack, found.headers, (), modality, corrections)


def _load(paths: Sequence[Path], decoders: Decoders | None, check: Callable[[], None]) -> Volume:
    modality, slices = _read_headers(paths)
    chosen, notes = choose_part(slices)
    volume = _load_slices(chosen, modality, decoders, check)
    return replace(volume, corrections=(*notes, *volume.corrections)) if notes else volume


def _read_headers(paths: Sequence[Path]) -> tuple[str, list[Slice]]:
    instances = [read_instance(Path(path), position) for position, path in enumerate(paths, start=1)]
    modality = _check_series(instances)
    return modality, slices_of(instances)


def _load_slices(
    slices: Sequence[Slice], modality: str, decoders: Decoders | None, check: Callable[[], None]
) -> Volume:
    stack = stack_planes(_planes(slices))
    slices = [slices[i] for i in stack.order]
    suv = suv_scale([each.header for each in slices], slices[0].name) if modality == "PT" else SuvScale()
    rescales = [each.times(suv.factor) for each in _rescales(slices)]
    forms = [each.form for each in slices]
    size = len(forms) * forms[0].rows * forms[0].columns
    if size * 2 > LARGEST_VOLUME_BYTES:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"the series is too large: found {size} voxels, wanted at most {LARGEST_VOLUME_BYTES // 2}",
        )
    with images_reader(slices, decoders, check) as reader:
        voxels, corrections = _voxels(reader, forms, rescales, modality=modality)
    headers = [each.instance.header for each in slices]
    numbers_of_frames = tuple(each.frame_number for each in slices if each.frame_number is not None)
    return _volume(voxels, stack, headers, numbers_of_frames, modality, (*suv.remarks, *corrections))


@contextmanager
def images_reader(
    slices: Sequence[Slice], decoders: Decoders | None, check: Callable[[], None] = lambda: None
) -> Iterator[Reader]:
    """Reads each image: decoded here, or from where it was decoded before."""

    def read(index: int, into: np.ndarray, rescale: Rescale) -> None:
        check()
        slices[index].read(into, rescale)

    with decoders.reader(slices, check) if decoders else nullcontext(Reader(read)) as reader:
        yield reader


def _as_known(reader: Reader) -> Reader:
    """The same, but a file that is not what was noted of it has its header read before it is refused."""

    def read(index: int, into: np.ndarray, rescale: Rescale) -> None:
        try:
            reader.read(index, into, rescale)
        except BrokenDecoder:
            raise
        except NotAnalysed:
            raise NotAsKnown from None

    return replace(reader, read=read)


def _rescales(slices: Sequence[Slice]) -> list[Rescale]:
    return shared([(each.header, each.name) for each in slices], RESCALE_TAGS, read_rescale)


def _voxels(
    reader: Reader, forms: Sequence[PixelFormat], rescales: Sequence[Rescale], *, modality: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """`read_voxels`, with what the machine could not do as `Transient`."""
    try:
        return read_voxels(reader, forms, rescales, modality=modality)
    except MemoryError:
        raise Transient(f"not enough memory for a volume of {len(forms)} images") from None
    except OSError as error:
        raise Transient(f"an image of the series cannot be read: {error.strerror or type(error).__name__}") from None


def _volume(
    voxels: np.ndarray,
    stack: Stack,
    headers: Sequence[Dataset],
    frame_numbers: tuple[int, ...],
    modality: str,
    corrections: tuple[str, ...],
) -> Volume:
    voxels.setflags(write=False)
    return Volume(
        voxels=voxels,
        affine_lps=stack.affine_lps,
        headers=headers,
        modality=modality,
        frame_of_reference_uid=str(headers[0].FrameOfReferenceUID),
        corrections=(*_notes(headers[0], stack), *corrections),
        frame_numbers=frame_numbers,
        levels=stack.levels,
    )


def _check_series(instances: Sequence[Instance]) -> str:
    """One series of one supported SOP Class; its modality."""
    series = {str(instance.header.get("SeriesInstanceUID", "")) for instance in instances}
    if len(series) > 1:
        raise refusal(
            Reason.SEVERAL_SERIES,
            f"found images of {len(series)} series ({', '.join(sorted(series)[:3])}); wanted one",
        )
    classes = {str(instance.header.get("SOPClassUID", "")) for instance in instances}
    unsupported = sorted(classes - set(MODALITIES))
    if unsupported or len(classes) > 1:
        found = ", ".join(uid.UID(each).name if each else "none" for each in (unsupported or sorted(classes)))
        raise refusal(
            Reason.UNSUPPORTED_MODALITY,
            f"found SOP Class {found}; wanted CT, MR or PT images, single-frame or enhanced",
        )
    for instance in instances:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if not instance.header.get(keyword):
                raise refusal(Reason.MISSING_GEOMETRY, f"{instance.name} has no {keyword}; wanted a UID")
    return MODALITIES[uid.UID(classes.pop())]


Directions = tuple[tuple[float, float, float, float, float, float], tuple[float, float]]
"""Direction cosines, and pixel spacing in mm."""


def _directions(header: Dataset, name: str) -> Directions:
    a, b, c, d, e, f = _needed(header, name, "ImageOrientationPatient", 6)
    rows, columns = _needed(header, name, "PixelSpacing", 2)
    if min(rows, columns) <= 0:
        raise refusal(
            Reason.MISSING_GEOMETRY, f"{name}: found PixelSpacing {rows:g}, {columns:g}; wanted both above 0 mm"
        )
    return (a, b, c, d, e, f), (rows, columns)


def _planes(slices: Sequence[Slice]) -> list[Plane]:
    """Geometry of each image; what else tells images apart only where positions occur twice."""
    positions = [_needed(each.header, each.name, "ImagePositionPatient", 3) for each in slices]
    directions = shared([(each.header, each.name) for each in slices], DIRECTION_TAGS, _directions)
    doubled = len(set(positions)) < len(positions)
    planes = []
    for each, (x, y, z), (orientation, spacing) in zip(slices, positions, directions, strict=True):
        header = each.header
        if not header.get("FrameOfReferenceUID"):
            raise refusal(Reason.MISSING_GEOMETRY, f"{each.name} has no FrameOfReferenceUID; wanted a UID")
        planes.append(
            Plane(
                position_mm=(x, y, z),
                orientation=orientation,
                pixel_spacing_mm=spacing,
                rows=each.form.rows,
                columns=each.form.columns,
                frame_of_reference_uid=str(header.FrameOfReferenceUID),
                distinguishing=tuple((key, _raw(header, key)) for key in DISTINGUISHING) if doubled else (),
            )
        )
    return planes


def _needed(header: Dataset, name: str, keyword: str, count: int) -> tuple[float, ...]:
    values = numbers(header, keyword, count)
    if values is None:
        state = "is not usable" if is_given(header, keyword) else "is missing"
        raise refusal(
            Reason.MISSING_GEOMETRY,
            f"{name}: {keyword} {state}; wanted {count} finite number{'s'[: count > 1]}",
        )
    return values


def _raw(header: Dataset, keyword: str) -> str:
    """A value only for comparing; it is never shown."""
    return repr(raw_value(header, keyword))


def _notes(header: Dataset, stack: Stack) -> list[str]:
    """What was done about a tilt and uneven spacing, and what the header says against the geometry that was found."""
    notes = []
    if stack.levels is not None:
        low, high = stack.distances_mm
        notes.append(
            f"Slices are unevenly spaced, {low:.3g} to {high:.3g} mm apart: resampled evenly for the model, and the "
            "result brought back to the original slices; in volumes each slice reaches half way to its neighbours."
        )
    if stack.tilt_degrees:
        notes.append(
            f"Slices are tilted by {stack.tilt_degrees:.1f} degrees against their normal: resampled upright for the "
            "model, and the result brought back to the original slices."
        )
        return notes
    tilt = numbers(header, "GantryDetectorTilt", 1)
    if tilt and abs(tilt[0]) > 0.1:
        notes.append(
            f"Gantry/Detector Tilt says {tilt[0]:g} degrees, but the slices lie straight above each other: "
            "the positions were trusted."
        )
    return notes
