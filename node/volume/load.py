"""Load one series: headers, checks, order, pixels. The edge of this room: it reads files and does nothing
else.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, CTImageStorage, MRImageStorage

from node.errors import Transient
from node.volume.decode import check_readable, read_stored_values
from node.volume.decoders import Decoders
from node.volume.geometry import Plane, Stack, stack_planes
from node.volume.instance import Instance, open_instance, read_instance
from node.volume.known import KnownInstance, NotAsKnown, read_known, reading_threads
from node.volume.pixels import FORMAT_TAGS, PixelFormat, is_given, numbers, raw_values, read_format
from node.volume.reason import Reason, refusal
from node.volume.values import RESCALE_TAGS, Rescale, read_rescale
from node.volume.volume import Volume
from node.volume.voxels import ReadImage, read_voxels

T = TypeVar("T")
MODALITIES = {CTImageStorage: "CT", MRImageStorage: "MR"}
LARGEST_VOLUME_BYTES = 1 << 32
"""Largest volume of 16 bit values read (4 GiB); more is refused before it is allocated."""

DIRECTION_TAGS = (Tag("ImageOrientationPatient"), Tag("PixelSpacing"))
DISTINGUISHING = (
    "EchoTime",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "DiffusionBValue",
    "TriggerTime",
    "ImageType",
)


def load_volume(paths: Sequence[Path], known: Sequence[KnownInstance] = (), decoders: Decoders | None = None) -> Volume:
    """Load the single-frame CT or MR images of one series as one volume.

    Parameters
    ----------
    paths : sequence of Path
        Part 10 files of one series, in any order.
    known : sequence of KnownInstance
        What reception noted of the same files: plain images are then read without their headers. The result is the
        same, but for the headers after the first, which hold only what names and places an image.
    decoders : Decoders, optional
        Processes that decode the images of a JPEG 2000 series; without them it is done here.

    Raises
    ------
    NotAnalysed
        With a code of `Reason`, the value found and the value wanted.
    Transient
        When a file cannot be read, or memory does not suffice.
    """
    if not paths:
        raise refusal(Reason.TOO_FEW_SLICES, "the series has 0 slices; wanted at least 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values of the data set
        return (_load_known(known) if known else None) or _load(paths, decoders)


def _load_known(known: Sequence[KnownInstance]) -> Volume | None:
    """The volume of plain images by what is known of them; None when they have to be read one by one."""
    found = read_known(known)
    if found is None or str(found.first.header.get("SOPClassUID", "")) not in MODALITIES:
        return None
    modality = _check_series([found.first])
    count = len(found.headers)
    if count * found.form.frame_bytes > LARGEST_VOLUME_BYTES:
        return None
    try:
        voxels, corrections = _voxels(
            found.read_image,
            [found.form] * count,
            [found.rescale] * count,
            modality=modality,
            threads=reading_threads(),
        )
    except NotAsKnown:
        return None
    return _volume(voxels, found.stack, found.headers, modality, corrections)


def _load(paths: Sequence[Path], decoders: Decoders | None) -> Volume:
    instances = [read_instance(Path(path), position) for position, path in enumerate(paths, start=1)]
    modality = _check_series(instances)
    for instance in instances:
        check_readable(instance)
    forms = _shared(instances, FORMAT_TAGS, read_format)
    stack = stack_planes(_planes(instances, forms))
    instances, forms = [instances[i] for i in stack.order], [forms[i] for i in stack.order]
    rescales = _shared(instances, RESCALE_TAGS, read_rescale)
    size = len(forms) * forms[0].rows * forms[0].columns
    if size * 2 > LARGEST_VOLUME_BYTES:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"the series is too large: found {size} voxels, wanted at most {LARGEST_VOLUME_BYTES // 2}",
        )

    def read_image(index: int, into: np.ndarray) -> None:
        with open_instance(instances[index].path) as stream:
            read_stored_values(stream, instances[index], forms[index], into)

    ahead = decoders.reader(instances, forms) if decoders else None
    voxels, corrections = _voxels(ahead or read_image, forms, rescales, modality=modality)
    return _volume(voxels, stack, [instance.header for instance in instances], modality, corrections)


def _voxels(
    read_image: ReadImage,
    forms: Sequence[PixelFormat],
    rescales: Sequence[Rescale],
    *,
    modality: str,
    threads: int = 1,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """`read_voxels`, with what the machine could not do as `Transient`."""
    try:
        return read_voxels(read_image, forms, rescales, modality=modality, threads=threads)
    except MemoryError:
        raise Transient(f"not enough memory for a volume of {len(forms)} images") from None
    except OSError as error:
        raise Transient(f"an image of the series cannot be read: {error.strerror or type(error).__name__}") from None


def _volume(
    voxels: np.ndarray, stack: Stack, headers: Sequence[Dataset], modality: str, corrections: tuple[str, ...]
) -> Volume:
    voxels.setflags(write=False)
    return Volume(
        voxels=voxels,
        affine_lps=stack.affine_lps,
        headers=headers,
        modality=modality,
        frame_of_reference_uid=str(headers[0].FrameOfReferenceUID),
        corrections=(*_notes(headers[0], stack.tilt_degrees), *corrections),
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
        found = ", ".join(UID(each).name if each else "none" for each in (unsupported or sorted(classes)))
        raise refusal(
            Reason.UNSUPPORTED_MODALITY,
            f"found SOP Class {found}; wanted CT Image Storage or MR Image Storage",
        )
    for instance in instances:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if not instance.header.get(keyword):
                raise refusal(Reason.MISSING_GEOMETRY, f"{instance.name} has no {keyword}; wanted a UID")
    return MODALITIES[UID(classes.pop())]


def _shared(instances: Sequence[Instance], tags: Sequence[BaseTag], read: Callable[[Dataset, str], T]) -> list[T]:
    """`read` for each instance, done once for all that have the same bytes in `tags`: most of a series is alike."""
    known: dict[tuple[bytes | None, ...], T] = {}
    results = []
    for instance in instances:
        key = raw_values(instance.header, tags)
        if key is None:
            results.append(read(instance.header, instance.name))
            continue
        if key not in known:
            known[key] = read(instance.header, instance.name)
        results.append(known[key])
    return results


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


def _planes(instances: Sequence[Instance], forms: Sequence[PixelFormat]) -> list[Plane]:
    """Geometry of each image; what else tells images apart only where positions occur twice."""
    positions = [_needed(each.header, each.name, "ImagePositionPatient", 3) for each in instances]
    directions = _shared(instances, DIRECTION_TAGS, _directions)
    doubled = len(set(positions)) < len(positions)
    planes = []
    for instance, form, (x, y, z), (orientation, spacing) in zip(instances, forms, positions, directions, strict=True):
        header = instance.header
        if not header.get("FrameOfReferenceUID"):
            raise refusal(Reason.MISSING_GEOMETRY, f"{instance.name} has no FrameOfReferenceUID; wanted a UID")
        planes.append(
            Plane(
                position_mm=(x, y, z),
                orientation=orientation,
                pixel_spacing_mm=spacing,
                rows=form.rows,
                columns=form.columns,
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
    return repr(header.get_item(keyword).value) if keyword in header else ""


def _notes(header: Dataset, tilt_degrees: float) -> list[str]:
    """What was done about a tilt, and what the header says against the geometry that was found."""
    if tilt_degrees:
        return [
            f"Slices are tilted by {tilt_degrees:.1f} degrees against their normal: resampled upright for the model, "
            "and the result brought back to the original slices."
        ]
    tilt = numbers(header, "GantryDetectorTilt", 1)
    if tilt and abs(tilt[0]) > 0.1:
        return [
            f"Gantry/Detector Tilt says {tilt[0]:g} degrees, but the slices lie straight above each other: "
            "the positions were trusted."
        ]
    return []
