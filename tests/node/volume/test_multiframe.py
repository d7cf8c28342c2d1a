"""Enhanced multi-frame objects, and series that hold several volumes: frames go where their functional groups say."""

import random
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from node.errors import NotAnalysed
from node.volume import Decoders, FrameCache, load_volume, load_volumes
from tests.phantoms import default_voxels, make_series, write_series

SHAPE = (6, 20, 18)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.2))
CLASSES = {"MR": uid.EnhancedMRImageStorage, "CT": uid.EnhancedCTImageStorage}


def write_enhanced(
    path: Path, images: list[Dataset], *, order: list[int] | None = None, all_per_frame: bool = False
) -> Path:
    """One enhanced object of single-frame images, its frames in any `order`; what all share in shared groups."""
    order = order or list(range(len(images)))
    images = [images[index] for index in order]
    first, enhanced = images[0], Dataset()
    for element in first:
        if element.keyword not in (
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
            "RescaleIntercept", "RescaleType", "EchoTime", "PixelData",
        ):  # fmt: skip
            enhanced[element.tag] = element
    enhanced.SOPClassUID = CLASSES[first.Modality]
    shared, frames = Dataset(), []
    for image in images:
        groups = Dataset()
        measures, orientation, place = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
        orientation.ImageOrientationPatient = image.ImageOrientationPatient
        place.ImagePositionPatient = image.ImagePositionPatient
        owner = groups if all_per_frame else shared
        owner.PixelMeasuresSequence, owner.PlaneOrientationSequence = [measures], [orientation]
        groups.PlanePositionSequence = [place]
        if "RescaleSlope" in image:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept = image.RescaleSlope, image.RescaleIntercept
            values.RescaleType = "HU"
            groups.PixelValueTransformationSequence = [values]
        if "EchoTime" in image:
            echo = Dataset()
            echo.EffectiveEchoTime = image.EchoTime
            groups.MREchoSequence = [echo]
        if "ImageType" in image:
            kind = Dataset()
            kind.FrameType = image.ImageType
            groups.MRImageFrameTypeSequence = [kind]
        if "DiffusionBValue" in image:
            diffusion = Dataset()
            diffusion.DiffusionBValue = image.DiffusionBValue
            groups.MRDiffusionSequence = [diffusion]
        frames.append(groups)
    enhanced.SharedFunctionalGroupsSequence, enhanced.PerFrameFunctionalGroupsSequence = [shared], frames
    enhanced.NumberOfFrames = len(images)
    enhanced.PixelData = b"".join(image.PixelData for image in images)
    enhanced["PixelData"].VR = "OW"
    enhanced.file_meta = first.file_meta
    enhanced.file_meta.MediaStorageSOPClassUID = enhanced.SOPClassUID
    enhanced.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("all_per_frame", [False, True])
def test_frames_lie_where_their_groups_say(tmp_path: Path, all_per_frame: bool) -> None:
    images = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.2), voxels=VOXELS, orientation="oblique")
    single = load_volume(write_series(tmp_path, shape=SHAPE, spacing_mm=(3.0, 1.5, 1.2), orientation="oblique"))
    order = [3, 0, 5, 1, 4, 2]
    volume = load_volume([write_enhanced(tmp_path / "e.dcm", images, order=order, all_per_frame=all_per_frame)])
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_allclose(volume.affine_lps, single.affine_lps, atol=1e-9)
    assert volume.frame_numbers == tuple(order.index(index) + 1 for index in range(6))
    assert len(volume.headers) == 6 and len(volume.sources) == 1
    assert "PerFrameFunctionalGroupsSequence" in volume.sources[0] and volume.modality == "MR"
    assert volume.sources[0].NumberOfFrames == 6  # what is made of its header for a frame leaves it as it is


def test_rescale_of_each_frame(tmp_path: Path) -> None:
    images = make_series(shape=SHAPE, voxels=VOXELS, modality="CT")
    for number, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = 0.5 * (number + 1), -1024
    volume = load_volume([write_enhanced(tmp_path / "e.dcm", images)])
    wanted = VOXELS * (0.5 * np.arange(1, 7))[:, None, None] - 1024
    np.testing.assert_array_equal(volume.voxels, wanted.astype(np.float32))


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.RLELossless], ids=lambda each: each.keyword)
def test_compressed_frames(tmp_path: Path, syntax: uid.UID) -> None:
    path = write_enhanced(tmp_path / "e.dcm", make_series(shape=SHAPE, voxels=VOXELS))
    image = dcmread(path)
    image.compress(syntax, generate_instance_uid=False)
    image.save_as(path)
    np.testing.assert_array_equal(load_volume([path]).voxels, VOXELS)


def test_compressed_frames_are_decoded_by_threads(tmp_path: Path) -> None:
    shape = (26, 20, 18)
    voxels = default_voxels(shape, (3.0, 1.5, 1.2))
    order = list(range(26))
    random.Random(2).shuffle(order)
    path = write_enhanced(tmp_path / "e.dcm", make_series(shape=shape, voxels=voxels), order=order)
    image = dcmread(path)
    streams = [imagecodecs.jpegls_encode(voxels[index].view(np.uint16)) for index in order]
    image.PixelData = encapsulate(streams, has_bot=False)
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    image.save_as(path)
    with Decoders(2, FrameCache(tmp_path / "decoded", 1 << 24)) as decoders:
        np.testing.assert_array_equal(load_volume([path], decoders=decoders).voxels, voxels)


def several(tmp_path: Path, **differing: list[object]) -> tuple[list[Dataset], list[np.ndarray]]:
    """Two volumes at the same places that differ in these attributes."""
    images, volumes = [], []
    for number in range(2):
        voxels = VOXELS + 1000 * number
        fixed = {keyword: values[number] for keyword, values in differing.items()}
        series = make_series(shape=SHAPE, voxels=voxels, series_instance_uid="1.2.3", study_instance_uid="1.2", **fixed)
        for index, image in enumerate(series):
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}.{index + 1}"
        images += series
        volumes.append(voxels)
    return images, volumes


@pytest.mark.parametrize(
    ("keyword", "values", "names"),
    [
        ("EchoTime", [2.5, 11.0], ["EchoTime 2.5", "EchoTime 11"]),
        ("DiffusionBValue", [0.0, 800.0], ["DiffusionBValue 0", "DiffusionBValue 800"]),
        ("TemporalPositionIdentifier", [1, 2], ["TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"]),
        ("TriggerTime", [0.0, 40.0], ["TriggerTime 0", "TriggerTime 40"]),
        ("KVP", [80.0, 140.0], ["KVP 80", "KVP 140"]),
        ("AcquisitionNumber", [1, 2], ["AcquisitionNumber 1", "AcquisitionNumber 2"]),
    ],
)
def test_series_is_split_by_what_differs(tmp_path: Path, keyword: str, values: list[object], names: list[str]) -> None:
    images, volumes = several(tmp_path, **{keyword: values})
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    with pytest.raises(NotAnalysed, match=keyword) as caught:
        load_volume(paths)
    assert caught.value.code == "duplicate-position"
    found = load_volumes(paths)
    assert list(found) == names
    by_value = dict(zip(sorted(names), (found[name] for name in sorted(names)), strict=True))
    expected = {f"{keyword} {value:g}": voxels for value, voxels in zip(values, volumes, strict=True)}
    for name, volume in by_value.items():
        np.testing.assert_array_equal(volume.voxels, expected[name])


@pytest.mark.parametrize(("keyword", "values"), [("EchoTime", [2.5, 11.0]), ("DiffusionBValue", [0.0, 800.0])])
def test_frames_are_split_by_what_differs(tmp_path: Path, keyword: str, values: list[object]) -> None:
    images, volumes = several(tmp_path, **{keyword: values})
    order = list(range(12))
    random.Random(1).shuffle(order)
    path = write_enhanced(tmp_path / "e.dcm", images, order=order)
    found = load_volumes([path])
    assert list(found) == [f"{keyword} {value:g}" for value in values]
    for value, voxels, first in zip(values, volumes, (0, 6), strict=True):
        volume = found[f"{keyword} {value:g}"]
        np.testing.assert_array_equal(volume.voxels, voxels)
        assert volume.frame_numbers == tuple(order.index(first + index) + 1 for index in range(6))
    taken = load_volume([path])
    np.testing.assert_array_equal(taken.voxels, volumes[0])
    assert taken.frame_numbers == found[f"{keyword} {values[0]:g}"].frame_numbers
    said = f"The images hold 2 volumes: only that of {keyword} {values[0]:g} was analysed (6 of 12 slices)."
    assert taken.corrections[0] == said


def test_of_several_volumes_what_is_derived_or_shorter_is_not_taken(tmp_path: Path) -> None:
    kinds = [["DERIVED", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "M"]]
    images, volumes = several(tmp_path, EchoTime=[2.5, 11.0])
    for index, image in enumerate(images):
        image.ImageType = kinds[index // 6]
    path = write_enhanced(tmp_path / "a.dcm", images)
    np.testing.assert_array_equal(load_volume([path]).voxels, volumes[1])
    images, volumes = several(tmp_path, EchoTime=[2.5, 11.0])
    path = write_enhanced(tmp_path / "b.dcm", images[:4] + images[6:])
    volume = load_volume([path])
    np.testing.assert_array_equal(volume.voxels, volumes[1])
    assert "EchoTime 11 was analysed (6 of 10 slices)" in volume.corrections[0]


def test_frames_at_one_place_that_nothing_sets_apart_are_refused(tmp_path: Path) -> None:
    images, _ = several(tmp_path)
    with pytest.raises(NotAnalysed, match="nothing sets them apart") as caught:
        load_volume([write_enhanced(tmp_path / "e.dcm", images)])
    assert caught.value.code == "duplicate-position"


def test_one_volume_has_no_name_and_what_nothing_sets_apart_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS)
    assert list(load_volumes(paths)) == [""]
    with pytest.raises(NotAnalysed) as caught:
        load_volumes([*paths, *paths])
    assert caught.value.code == "duplicate-position"


def test_fewer_groups_than_frames_is_refused(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "e.dcm", make_series(shape=SHAPE, voxels=VOXELS))
    image = dcmread(path)
    image.PerFrameFunctionalGroupsSequence = list(image.PerFrameFunctionalGroupsSequence)[:4]
    image.save_as(path)
    with pytest.raises(NotAnalysed, match="frame 5: ImagePositionPatient is missing") as caught:
        load_volume([path])
    assert caught.value.code == "missing-geometry"
