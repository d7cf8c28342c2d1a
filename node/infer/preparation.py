"""From the volumes of an exam to what a network sees: one array of channels on one grid. Pure."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from node.errors import NotAnalysed
from node.infer.arrays import Array, ScoreDevice, like, on_host
from node.infer.intensity import scale_intensities
from node.infer.preprocessing_sections import GridSection, Preprocessing, Region
from node.infer.regions import Found, box_on, centre_lps, mask_on, widened
from node.infer.transforms import body_box, model_grid, resample
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
    """

    image: np.ndarray
    grid: Grid
    subject: str
    remarks: tuple[str, ...] = ()


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
    grid, remarks = _grid(first.grid, preprocessing, found, threads)
    masks = [
        (region, mask_on(found[region.stage].mask(region.names), first.grid, grid, threads))
        for region in preprocessing.regions
        if region.use == "mask"
    ]
    channels = []
    for name in names:
        volume = volumes.get(name)
        if volume is None:
            channels.append(np.zeros(grid.shape, np.float32))
            remarks.append(f"Input {name} is not there; the model ran without it.")
        else:
            channels.append(_channel(volume, name, grid, preprocessing, masks, threads, device))
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
    return Prepared(image, grid, subject, tuple(remarks))


def _check_frames(volumes: Mapping[str, Volume], preprocessing: Preprocessing) -> None:
    frames = {volume.frame_of_reference_uid for volume in volumes.values()}
    if preprocessing.same_frame_of_reference and len(frames) > 1:
        raise NotAnalysed(
            "frames-of-reference-differ",
            f"found {len(frames)} frames of reference in inputs {', '.join(volumes)}, expected one: nothing says that "
            "they are aligned",
        )


def _grid(
    source: Grid, preprocessing: Preprocessing, found: Mapping[str, Found], threads: int
) -> tuple[Grid, list[str]]:
    """The grid before the crop to the body; of a crop region before scaling, its part."""
    grid = model_grid(source, preprocessing)
    region = next((each for each in preprocessing.regions if each.use == "crop" and each.order == "before"), None)
    if region is None:
        return grid, []
    mask, is_fixed = found[region.stage].mask(region.names), preprocessing.grid.kind == "fixed"
    around = model_grid(source, _covering(preprocessing)) if is_fixed else grid
    box = box_on(mask, source, around, threads)
    if box is None:
        return grid, [_whole_is_used(region)]
    if is_fixed:
        return model_grid(source, preprocessing, centre_lps(box, around)), []
    return grid.part(*widened(box, grid, region.margin_mm)), []


def _whole_is_used(region: Region) -> str:
    return f"Stage {region.stage} found nothing to crop to; the whole is used."


def _covering(preprocessing: Preprocessing) -> Preprocessing:
    """For the same axes and spacing, but over all of the images."""
    return preprocessing.model_copy(update={"grid": GridSection(kind="cover")})


def _channel(
    volume: Volume,
    name: str,
    grid: Grid,
    preprocessing: Preprocessing,
    masks: Sequence[tuple[Region, np.ndarray]],
    threads: int,
    device: ScoreDevice | None,
) -> np.ndarray:
    if device is not None:
        with suppress(MemoryError):
            return on_host(_scaled(volume, name, grid, preprocessing, masks, threads, device))
    return np.asarray(_scaled(volume, name, grid, preprocessing, masks, threads, None))


def _scaled(
    volume: Volume,
    name: str,
    grid: Grid,
    preprocessing: Preprocessing,
    masks: Sequence[tuple[Region, np.ndarray]],
    threads: int,
    device: ScoreDevice | None,
) -> Array:
    outside = _outside(preprocessing.outside, volume)
    image = resample(volume.voxels, volume.grid, grid, preprocessing.interpolation, outside, threads, device)
    for region, mask in masks:
        if region.order == "before":
            image[like(~mask, image)] = region.value
    scale_intensities(image, volume.voxels, preprocessing.intensity_of.get(name, preprocessing.intensity))
    for region, mask in masks:
        if region.order == "after":
            image[like(~mask, image)] = region.value
    return image


def _outside(wanted: float | str, volume: Volume) -> float | None:
    if wanted == "edge":
        return None
    return float(volume.voxels.min()) if wanted == "minimum" else float(wanted)


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
