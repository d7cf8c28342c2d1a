"""From the volumes of an exam to what a network sees: one array of channels on one grid. Pure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from node.errors import NotAnalysed
from node.infer.arrays import Array, ScoreDevice, like, on_host
from node.infer.intensity import IntensityMap, scale_intensities
from node.infer.preprocessing_sections import GridSection, Preprocessing, Region
from node.infer.regions import Found, box_on, box_slices, centre_lps, mask_box, mask_on, widened
from node.infer.transforms import body_box, coarse_axis, model_grid, resample, resample_planes, turn
from node.volume.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a network sees.

    Parameters
    ----------
    image : ndarray of float32, shape (channel, *grid.shape)
    grid : Grid
        Where its voxels are; of images, on the pixels of the subject (slice counts frames).
    subject : str
        The input that results lie on.
    remarks : tuple of str
        For the report.
    coarse_axis : int, optional
        Of `grid`: along it what the network says is not interpolated.
    """

    image: np.ndarray
    grid: Grid
    subject: str
    remarks: tuple[str, ...] = ()
    coarse_axis: int | None = None


def prepare_volumes(
    volumes: Mapping[str, Volume],
    names: Sequence[str],
    preprocessing: Preprocessing,
    found: Mapping[str, Found],
    threads: int = 1,
    device: ScoreDevice | None = None,
) -> Prepared:
    """Resample all inputs onto one grid, scale and crop them as the manifest says.

    Parameters
    ----------
    volumes : mapping of str to Volume
        The inputs that there are; the first is the subject.
    names : sequence of str
        The inputs in the order of the channels; a channel of one that is not there is 0 throughout.
    found : mapping of str to Found
        What earlier stages found, on the voxels of the subject.
    device : ScoreDevice, optional
        Where images are resampled and scaled; here, where its memory does not suffice.

    Raises
    ------
    NotAnalysed
        When inputs do not share a frame of reference and the manifest asks for one.
    """
    subject, first = next(iter(volumes.items()))
    _check_frames(volumes, preprocessing)
    seen = _seen(volumes, preprocessing)
    grid, remarks = _grid(seen[subject].grid, first.grid, preprocessing, found, threads)
    masks = [
        (region, mask_on(found[region.stage].mask(region.names), first.grid, grid, threads))
        for region in preprocessing.regions
        if region.use == "mask"
    ]
    channels = []
    for name in names:
        if name not in seen:
            channels.append(np.zeros(grid.shape, np.float32))
            remarks.append(f"Input {name} is not there; the model ran without it.")
        else:
            channels.append(_channel(seen[name], name, grid, preprocessing, masks, threads, device))
    box = _crop_box(channels[: len(volumes)], first.grid, grid, preprocessing, found, threads, remarks)
    if box is not None:
        start, shape = box
        part = tuple(slice(at, at + size) for at, size in zip(start, shape, strict=True))
        channels = [channel[part] for channel in channels]
        grid = grid.part(start, shape)
    for region in preprocessing.regions:
        if region.use == "channel":
            channels += _mask_channels(region, found[region.stage], first.grid, grid, threads)
    image = np.ascontiguousarray(channels[0])[None] if len(channels) == 1 else np.stack(channels)
    return Prepared(image, grid, subject, tuple(remarks), _coarse_axis(seen[subject].grid, preprocessing))


def _check_frames(volumes: Mapping[str, Volume], preprocessing: Preprocessing) -> None:
    frames = {volume.frame_of_reference_uid for volume in volumes.values()}
    if preprocessing.same_frame_of_reference and len(frames) > 1:
        raise NotAnalysed(
            "frames-of-reference-differ",
            f"found {len(frames)} frames of reference in inputs {', '.join(volumes)}, expected one: nothing says that "
            "they are aligned",
        )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is looked at of a volume."""

    voxels: np.ndarray
    grid: Grid


def _seen(volumes: Mapping[str, Volume], preprocessing: Preprocessing) -> dict[str, _Seen]:
    """All of each volume, or of those on the voxels of the first the box where any of them is not 0."""
    seen = {name: _Seen(volume.voxels, volume.grid) for name, volume in volumes.items()}
    first = next(iter(seen.values()))
    alike = {name: each for name, each in seen.items() if _is_alike(each.grid, first.grid)}
    if preprocessing.grid.around == "nonzero":
        box = mask_box(np.logical_or.reduce([each.voxels != 0 for each in alike.values()]))
        if box is not None:
            part = box_slices(*box, first.grid.shape)
            if first.grid.levels is not None:  # slices that are not evenly spaced stay together
                part = (slice(0, first.grid.shape[0]), *part[1:])
            seen |= {name: _Seen(each.voxels[part], _part(each.grid, part)) for name, each in alike.items()}
    return seen


def _coarse_axis(source: Grid, preprocessing: Preprocessing) -> int | None:
    """The axis of the grid along which nothing is interpolated: that of the images, else that of the grid."""
    if preprocessing.coarse_axis != "nearest" or preprocessing.spacing_mm is None:
        return None
    own = turn(source.upright(), preprocessing.orientation).spacing_mm
    wanted = [side if each == "images" else each for each, side in zip(preprocessing.spacing_mm, own, strict=True)]
    return coarse_axis(own, wanted)


def _is_alike(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and one.levels == other.levels and np.allclose(one.affine_lps, other.affine_lps)


def _part(grid: Grid, part: tuple[slice, ...]) -> Grid:
    one, two, three = (each.stop - each.start for each in part)
    cut = grid.part(tuple(each.start for each in part), (one, two, three))
    return Grid(cut.shape, cut.affine_lps, grid.levels)


def _grid(
    extent: Grid, source: Grid, preprocessing: Preprocessing, found: Mapping[str, Found], threads: int
) -> tuple[Grid, list[str]]:
    """The grid before the crop to the body; of a crop region before scaling, its part. `extent` is what is looked at of
    `source`, on which regions lie.
    """
    grid = model_grid(extent, preprocessing)
    region = next((each for each in preprocessing.regions if each.use == "crop" and each.order == "before"), None)
    if region is None:
        return grid, []
    mask, is_fixed = found[region.stage].mask(region.names), preprocessing.grid.kind == "fixed"
    around = model_grid(extent, _covering(preprocessing)) if is_fixed else grid
    box = box_on(mask, source, around, threads)
    if box is None:
        return grid, [_whole_is_used(region)]
    if is_fixed:
        return model_grid(extent, preprocessing, centre_lps(box, around)), []
    return grid.part(*widened(box, grid, region.margin_mm)), []


def _whole_is_used(region: Region) -> str:
    return f"Stage {region.stage} found nothing to crop to; the whole is used."


def _covering(preprocessing: Preprocessing) -> Preprocessing:
    """For the same axes and spacing, but over all of the images."""
    return preprocessing.model_copy(update={"grid": GridSection(kind="cover")})


def _channel(
    seen: _Seen,
    name: str,
    grid: Grid,
    preprocessing: Preprocessing,
    masks: Sequence[tuple[Region, np.ndarray]],
    threads: int,
    device: ScoreDevice | None,
) -> np.ndarray:
    if device is not None:
        with suppress(MemoryError):
            return on_host(_scaled(seen, name, grid, preprocessing, masks, threads, device))
    return np.asarray(_scaled(seen, name, grid, preprocessing, masks, threads, None))


def _scaled(
    seen: _Seen,
    name: str,
    grid: Grid,
    preprocessing: Preprocessing,
    masks: Sequence[tuple[Region, np.ndarray]],
    threads: int,
    device: ScoreDevice | None,
) -> Array:
    steps, voxels = preprocessing.intensity_of.get(name, preprocessing.intensity), seen.voxels
    is_scaled = preprocessing.intensity_on == "images"
    if is_scaled:
        voxels = voxels.astype(np.float32)
        scale_intensities(voxels, seen.voxels, steps)
    outside = _outside(preprocessing.outside, voxels)
    clipped = preprocessing.interpolation == "cubic-clipped"
    interpolation = "cubic" if preprocessing.interpolation == "cubic-clipped" else preprocessing.interpolation
    axis = _coarse_axis(seen.grid, preprocessing)
    if axis is not None:
        image = resample_planes(voxels, seen.grid, grid, axis, interpolation, outside, threads, clipped)
    else:
        image = resample(voxels, seen.grid, grid, interpolation, outside, threads, device)
        if clipped:
            IntensityMap(float(voxels.min()), float(voxels.max())).apply(image)
    for region, mask in masks:
        if region.order == "before":
            image[like(~mask, image)] = region.value
    if not is_scaled:
        scale_intensities(image, voxels, steps)
    for region, mask in masks:
        if region.order == "after":
            image[like(~mask, image)] = region.value
    return image


def _outside(wanted: float | str, voxels: np.ndarray) -> float | None:
    if wanted == "edge":
        return None
    return float(voxels.min()) if wanted == "minimum" else float(wanted)


def _crop_box(
    channels: Sequence[np.ndarray],
    source: Grid,
    grid: Grid,
    preprocessing: Preprocessing,
    found: Mapping[str, Found],
    threads: int,
    remarks: list[str],
) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """What is cut out after scaling: a crop region, or what is bright in any channel."""
    for region in preprocessing.regions:
        if region.use == "crop" and region.order == "after":
            box = box_on(found[region.stage].mask(region.names), source, grid, threads)
            if box is not None:
                return widened(box, grid, region.margin_mm)
            remarks.append(_whole_is_used(region))
    if preprocessing.crop is None:
        return None
    boxes = [body_box(channel, preprocessing.crop) for channel in channels]
    start = np.min([low for low, _ in boxes], axis=0)
    end = np.max([np.add(low, shape) for low, shape in boxes], axis=0)
    one, two, three = (int(side) for side in end - start)
    return (int(start[0]), int(start[1]), int(start[2])), (one, two, three)


def _mask_channels(region: Region, found: Found, source: Grid, grid: Grid, threads: int) -> list[np.ndarray]:
    names = region.names or tuple(found.numbers) or tuple(found.boxes)
    return [mask_on(found.mask((name,)), source, grid, threads).astype(np.float32) for name in names]
