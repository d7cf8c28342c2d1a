"""What may become one slice of a volume: a single-frame instance, or one frame of an enhanced multi-frame one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.volume.decode import check_readable, find_frames, read_stored_values
from node.volume.frames import Frames
from node.volume.groups import base_header, frame_header, has_groups
from node.volume.instance import Instance, open_instance
from node.volume.pixels import FORMAT_TAGS, PixelFormat, raw_values, read_image_format, require_monochrome
from node.volume.reason import Reason, refusal
from node.volume.values import AS_STORED, Rescale, rescale_in_place

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Slice:
    """One image on disk, not yet decoded.

    Parameters
    ----------
    instance : Instance
    header : Dataset
        As of a single-frame image: what functional groups say of the frame stands in it.
    form : PixelFormat
    frame_number : int, optional
        From 1; None for a single-frame instance.
    places : Frames
        Where the frames of the instance lie; empty where that is looked up when the slice is read.
    """

    instance: Instance
    header: Dataset = field(repr=False)
    form: PixelFormat
    frame_number: int | None = None
    places: Frames = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.instance.name + (f", frame {self.frame_number}" if self.frame_number else "")

    def read(self, into: np.ndarray, rescale: Rescale = AS_STORED) -> None:
        """Decode into a C-contiguous (row, column) array, and rescale in place; raises as `read_stored_values`."""
        with open_instance(self.instance.path) as stream:
            frame = (self.frame_number or 1) - 1
            read_stored_values(stream, self.instance, self.form, into, self.places, frame)
        rescale_in_place(into, rescale)


def slices_of(instances: Sequence[Instance]) -> list[Slice]:
    """A slice for each single-frame instance and for each frame of the others.

    Raises
    ------
    NotAnalysed
        When one cannot be read, or its pixels are no numbers.
    """
    for instance in instances:
        check_readable(instance)
    forms = shared([(each.header, each.name) for each in instances], FORMAT_TAGS, _read_format)
    slices: list[Slice] = []
    for instance, form in zip(instances, forms, strict=True):
        if has_groups(instance.header):
            slices += _frames_of(instance, form)
        else:
            slices.append(Slice(instance, instance.header, form))
    return slices


def _read_format(header: Dataset, name: str) -> PixelFormat:
    form = require_monochrome(read_image_format(header, name), name)
    if form.frames > 1 and not has_groups(header):
        raise refusal(
            Reason.MISSING_GEOMETRY,
            f"{name} has {form.frames} frames and no functional groups: nothing says where they lie",
        )
    return form


def _frames_of(instance: Instance, form: PixelFormat) -> list[Slice]:
    with open_instance(instance.path) as stream:
        places = find_frames(stream, instance, form)
    base = base_header(instance.header)
    return [
        Slice(instance, frame_header(instance.header, base, index), form, index + 1, places)
        for index in range(form.frames)
    ]


def shared(
    headers: Sequence[tuple[Dataset, str]], tags: Sequence[BaseTag], read: Callable[[Dataset, str], T]
) -> list[T]:
    """`read` for each header and its name, done once for all that have the same bytes in `tags`: most of a series is
    alike.
    """
    known: dict[tuple[bytes | None, ...], T] = {}
    results = []
    for header, name in headers:
        key = raw_values(header, tags)
        if key is None:
            results.append(read(header, name))
            continue
        if key not in known:
            known[key] = read(header, name)
        results.append(known[key])
    return results
