"""From single images and loops to what a network sees: cut, resize, scale, pad; and where each pixel came from. Pure.

Everything that changes the pixels of an image scales, shifts or mirrors its axes, so that the way back is exact: the
grid of `Prepared` lies in the pixel indices (frame, row, column) of the image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage, sparse

from node.errors import NotAnalysed
from node.infer.intensity import scale_intensities
from node.infer.preparation import Prepared
from node.infer.preprocessing_sections import ImagePreprocessing
from node.infer.regions import Found, box_slices, mask_box
from node.volume.images import ImageSet
from node.volume.volume import Grid

Interpolation = Literal["area", "linear", "linear-antialias", "cubic", "nearest"]
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Grey of red, green and blue (ITU-R BT.601)."""


def pixel_grid(image: ImageSet) -> Grid:
    """The pixels of an image as a grid of their own indices (frame, row, column)."""
    frames, rows, columns = (int(side) for side in image.pixels.shape[:3])
    return Grid((frames, rows, columns), np.eye(4))


@dataclass(frozen=True)
class Side:
    """How one axis of an image becomes one of the tensor: `length` pixels from `start` become `size`, which lie from
    `offset` on in `total`; mirrored, they are counted from the far end.
    """

    start: int
    length: int
    size: int
    offset: int
    total: int
    mirrored: bool = False

    @property
    def step(self) -> float:
        """Pixels of the image for one of the tensor."""
        return self.length / self.size * (-1 if self.mirrored else 1)

    @property
    def origin(self) -> float:
        """Index in the image of the tensor's first pixel (middle to middle)."""
        edge = self.start + self.length if self.mirrored else self.start
        return edge + (0.5 - self.offset) * self.step - 0.5


def prepare_images(
    images: Mapping[str, ImageSet],
    names: Sequence[str],
    preprocessing: ImagePreprocessing,
    found: Mapping[str, Found],
) -> Prepared:
    """Cut, resize, scale and pad images as the manifest says; each input becomes one channel or three.

    Parameters
    ----------
    images : mapping of str to ImageSet
        The inputs that there are; the first is the subject.
    names : sequence of str
        The inputs in the order of the channels; channels of one that is not there are 0 throughout.
    found : mapping of str to Found
        What earlier stages found, on the pixels of the subject.

    Raises
    ------
    NotAnalysed
        When images do not become equally large.
    """
    subject = next(iter(images))
    made: dict[str, tuple[np.ndarray, Grid]] = {}
    for name, image in images.items():
        made[name] = _prepare(image, name, preprocessing, found if name == subject else {})
    shapes = {array.shape for array, _ in made.values()}
    if len(shapes) > 1:
        sizes = ", ".join(f"{name} {'x'.join(map(str, array.shape[1:]))}" for name, (array, _) in made.items())
        raise NotAnalysed(
            "images-differ", f"found images of different size or number of frames ({sizes}), expected equal ones"
        )
    grid = made[subject][1]
    absent = np.zeros_like(made[subject][0])
    channels = [made[name][0] if name in made else absent for name in names]
    for region in preprocessing.regions:
        if region.use == "channel":
            for name in region.names or tuple(found[region.stage].numbers) or tuple(found[region.stage].boxes):
                channels.append(_pick(found[region.stage].mask((name,)), grid)[None])
    remarks = tuple(f"Input {name} is not there; the model ran without it." for name in names if name not in made)
    stacked = channels[0] if len(channels) == 1 else np.concatenate(channels)
    return Prepared(np.ascontiguousarray(stacked, np.float32), grid, subject, remarks)


def _prepare(
    image: ImageSet, name: str, preprocessing: ImagePreprocessing, found: Mapping[str, Found]
) -> tuple[np.ndarray, Grid]:
    source = image.presented() if preprocessing.values == "presented" else image.pixels
    values = _coloured(source, preprocessing.colours)
    box = _box(values, image.padding, preprocessing, found)
    for region in preprocessing.regions:
        if region.use == "mask" and region.order == "before" and region.stage in found:
            values[:, ~found[region.stage].mask(region.names)] = region.value
    mirrored = preprocessing.mirror[:1].upper() == laterality(image)
    sides = _sides(box, preprocessing, mirrored)
    rows, columns = (slice(side.start, side.start + side.length) for side in sides)
    resized = _resize(values[:, :, rows, columns], sides, preprocessing.interpolation)
    scale_intensities(resized, source, preprocessing.intensity_of.get(name, preprocessing.intensity))
    grid = Grid((len(source), sides[0].total, sides[1].total), _affine(sides))
    padded = _pad(resized, sides, preprocessing.padding_value)
    for region in preprocessing.regions:
        if region.use == "mask" and region.order == "after" and region.stage in found:
            padded[:, _pick(found[region.stage].mask(region.names), grid) == 0] = region.value
    return padded, grid


def laterality(image: ImageSet) -> str:
    """``R``, ``L``, ``B`` or nothing: Image Laterality, else Laterality (PS3.3 C.8.11.7, C.7.3.1)."""
    header = image.header
    return str(header.get("ImageLaterality") or header.get("Laterality") or "").upper()


def _coloured(source: np.ndarray, colours: int) -> np.ndarray:
    """Pixels as (colour, frame, row, column), float32, of their own."""
    values = source.astype(np.float32)
    if values.ndim == 4:
        return np.ascontiguousarray(np.moveaxis(values, 3, 0)) if colours == 3 else (values @ LUMINANCE)[None]
    return np.repeat(values[None], colours, axis=0)


def _box(
    values: np.ndarray, padding: np.ndarray | None, preprocessing: ImagePreprocessing, found: Mapping[str, Found]
) -> tuple[slice, slice]:
    """The rows and columns that are looked at."""
    rows, columns = values.shape[2:]
    region = next((each for each in preprocessing.regions if each.use == "crop" and each.stage in found), None)
    if region is not None:
        box = mask_box(found[region.stage].mask(region.names).max(axis=0))
        if box is not None:
            low, high = box
            part = box_slices(low - region.margin_pixels, high + region.margin_pixels, (rows, columns))
            return part[0], part[1]
    if preprocessing.foreground is None:
        return slice(0, rows), slice(0, columns)
    grey = values.mean(axis=(0, 1))
    threshold = preprocessing.foreground.threshold
    bright = grey > (otsu(grey) if threshold == "otsu" else threshold)
    if padding is not None:
        bright &= ~padding.all(axis=0)
    labels, count = ndimage.label(bright)
    if not count:
        return slice(0, rows), slice(0, columns)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    margin = preprocessing.foreground.margin_pixels
    box = mask_box(labels == sizes.argmax())
    assert box is not None
    part = box_slices(box[0] - margin, box[1] + margin, (rows, columns))
    return part[0], part[1]


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """The value that parts an image into two classes of the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][np.nanargmax(between[:-1])]) if len(np.flatnonzero(counts)) > 1 else float(edges[0])


def _sides(box: tuple[slice, slice], preprocessing: ImagePreprocessing, mirrored: bool) -> tuple[Side, Side]:
    """How rows and columns become those of the tensor."""
    lengths = [part.stop - part.start for part in box]
    totals = list(preprocessing.size or lengths)
    ratios = [total / length for total, length in zip(totals, lengths, strict=True)]
    scale = {"pad": min(ratios), "cut": max(ratios), "keep": 1.0}.get(preprocessing.fit)
    sides = []
    for axis, (part, length, total) in enumerate(zip(box, lengths, totals, strict=True)):
        size = total if scale is None else max(1, round(length * scale))
        start, used = part.start, length
        room = total - size
        middle = preprocessing.anchor == "middle"
        if room < 0:  # cut before resizing, in whole pixels of the image
            used = max(1, round(total / (size / length)))
            away = length - used
            start += away // 2 if middle else away if mirrored and axis == 1 else 0
            size, room = total, 0
        sides.append(Side(start, used, size, room // 2 if middle else 0, total, mirrored and axis == 1))
    return sides[0], sides[1]


def _resize(values: np.ndarray, sides: tuple[Side, Side], interpolation: Interpolation) -> np.ndarray:
    """(colour, frame, row, column) with rows and columns as `sides` say, before padding."""
    result = values
    for axis, side in ((2, sides[0]), (3, sides[1])):
        if result.shape[axis] != side.size:
            weights = resize_weights(result.shape[axis], side.size, interpolation)
            moved = np.moveaxis(result, axis, 0)
            flat = weights @ moved.reshape(moved.shape[0], -1)
            result = np.moveaxis(flat.reshape(side.size, *moved.shape[1:]), 0, axis)
        if side.mirrored:
            result = np.flip(result, axis)
    return np.array(result, np.float32, order="C")


def resize_weights(length: int, size: int, interpolation: Interpolation) -> sparse.csr_array:
    """How much each of `length` pixels counts in each of `size`; every row adds up to 1."""
    scale = length / size
    if interpolation == "nearest":
        nearest = np.floor((np.arange(size) + 0.5) * scale).astype(int)
        return sparse.csr_array((np.ones(size, np.float32), (np.arange(size), nearest)), shape=(size, length))
    if interpolation == "area" and scale > 1:
        return _area_weights(length, size)
    kernel, reach = (_cubic, 2.0) if interpolation == "cubic" else (_triangle, 1.0)
    stretch = max(scale, 1.0) if interpolation == "linear-antialias" else 1.0
    middles = (np.arange(size) + 0.5) * scale - 0.5
    offsets = np.arange(-math.ceil(reach * stretch), math.ceil(reach * stretch) + 1)
    places = np.floor(middles)[:, None] + offsets
    shares = kernel((places - middles[:, None]) / stretch)
    if interpolation == "linear-antialias":  # what lies beyond the edge does not count
        shares = np.where((places < 0) | (places >= length), 0, shares)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return _sparse(shares, np.clip(places, 0, length - 1).astype(int), length)


def _area_weights(length: int, size: int) -> sparse.csr_array:
    """Each pixel of the result is the mean of what it covers."""
    edges = np.arange(size + 1) * (length / size)
    reach = math.ceil(length / size) + 1
    places = np.floor(edges[:-1])[:, None] + np.arange(reach)
    shares = np.minimum(places + 1, edges[1:, None]) - np.maximum(places, edges[:-1, None])
    shares = np.clip(shares, 0, None) * (places < length)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return _sparse(shares, np.clip(places, 0, length - 1).astype(int), length)


def _sparse(shares: np.ndarray, columns: np.ndarray, length: int) -> sparse.csr_array:
    rows = np.repeat(np.arange(len(shares)), shares.shape[1])
    entries = (shares.ravel().astype(np.float32), (rows, columns.ravel()))
    return sparse.csr_array(sparse.coo_array(entries, shape=(len(shares), length)))


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(distance))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75, as OpenCV and torch have it."""
    a, x = -0.75, np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _pad(values: np.ndarray, sides: tuple[Side, Side], padding_value: float) -> np.ndarray:
    totals = (sides[0].total, sides[1].total)
    if values.shape[2:] == totals:
        return values
    padded = np.full((*values.shape[:2], *totals), padding_value, np.float32)
    padded[
        :, :, sides[0].offset : sides[0].offset + sides[0].size, sides[1].offset : sides[1].offset + sides[1].size
    ] = values
    return padded


def _affine(sides: tuple[Side, Side]) -> np.ndarray:
    affine = np.eye(4)
    for axis, side in enumerate(sides, start=1):
        affine[axis, axis], affine[axis, 3] = side.step, side.origin
    return affine


def _pick(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """A mask of the image's pixels on the tensor's, float32: 1 where the nearest pixel is in it."""
    picked = mask.astype(np.float32)
    for axis in (1, 2):
        places = np.arange(grid.shape[axis]) * grid.affine_lps[axis, axis] + grid.affine_lps[axis, 3]
        nearest = np.floor(places + 0.5).astype(int)
        inside = (nearest >= 0) & (nearest < mask.shape[axis])
        taken = np.take(picked, np.clip(nearest, 0, mask.shape[axis] - 1), axis=axis)
        picked = taken * inside.reshape([-1 if each == axis else 1 for each in range(3)])
    return picked
