"""Loading by what reception noted gives the same volume and the same objects, or is left to the ordinary way."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from dicom_sr import conformance
from dicom_sr.render import render
from node.errors import NotAnalysed
from node.infer import Model, Registry, analyse
from node.pipeline import AnalysisRequest, InputImages, build_result
from node.receive.header import read_header
from node.volume import KnownInstance, Volume, load_volume
from node.volume.known import KnownHeaders
from tests.models import threshold_network, write_model
from tests.phantoms import default_voxels, write_series

SHAPE = (5, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


def known_of(paths: list[Path]) -> list[KnownInstance]:
    """As reception notes the files."""
    headers = [read_header(path) for path in paths]
    return [
        KnownInstance(
            path=path,
            sop_instance_uid=header.sop_instance_uid,
            series_instance_uid=header.series_instance_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
            pixel_offset=header.pixel_offset,
            pixel_length=header.pixel_length,
            geometry=header.geometry,
        )
        for path, header in zip(paths, headers, strict=True)
    ]


def load_both(paths: list[Path]) -> tuple[Volume, Volume]:
    """The ordinary way, and by what is known; equal in all but the headers."""
    ordinary, quick = load_volume(paths), load_volume(paths, known_of(paths))
    np.testing.assert_array_equal(quick.voxels, ordinary.voxels)
    assert quick.voxels.dtype == ordinary.voxels.dtype and not quick.voxels.flags.writeable
    np.testing.assert_array_equal(quick.affine_lps, ordinary.affine_lps)
    for name in ("modality", "frame_of_reference_uid", "corrections"):
        assert getattr(quick, name) == getattr(ordinary, name)
    return ordinary, quick


def is_quick(volume: Volume) -> bool:
    return isinstance(volume.headers, KnownHeaders)


def change(path: Path, **attributes) -> None:
    image = dcmread(path)
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    image.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("transfer_syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"orientation": "oblique"},
        {"modality": "CT", "RescaleIntercept": -1024},
        {"modality": "CT", "RescaleIntercept": -1000, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        {"modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -7, "PixelPaddingValue": -2000},
        {"RescaleSlope": 0.25, "RescaleIntercept": 1},
        {"modality": "CT", "GantryDetectorTilt": 12.5},
        {"modality": "CT", "RescaleIntercept": 30000, "RescaleSlope": 3},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()) or "plain",
)
def test_same_volume_from_what_is_known(tmp_path: Path, options, transfer_syntax: uid.UID) -> None:
    voxels = VOXELS.copy()
    voxels[:, :3] = -2000
    if options.get("PixelRepresentation") == 0:
        voxels = np.abs(voxels) % 4096 | 0x5000
    paths = write_series(tmp_path, shape=SHAPE, voxels=voxels, transfer_syntax=transfer_syntax, **options)
    random.Random(2).shuffle(paths)
    _, quick = load_both(paths)
    assert is_quick(quick)


def test_headers_hold_what_names_and_places_an_image(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, orientation="oblique", SliceThickness=4.5)
    ordinary, quick = load_both(paths[::-1])
    assert len(quick.headers) == 5 and quick.headers[0] == ordinary.headers[0]
    for one, other in zip(ordinary.headers, quick.headers, strict=True):
        for element in other:
            assert one[element.tag].value == element.value
        assert {"SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"} <= set(
            other.dir()
        )
    assert quick.headers[-1].SOPInstanceUID == ordinary.headers[4].SOPInstanceUID
    assert [each.SOPInstanceUID for each in quick.headers[1:3]] == [h.SOPInstanceUID for h in ordinary.headers[1:3]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "bright", "bright", threshold_network())
    return Registry([folder]).get("bright")


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_objects_are_the_same_byte_for_byte(tmp_path: Path, modality: str, model: Model) -> None:
    paths = write_series(tmp_path, shape=SHAPE, orientation="oblique", modality=modality)
    request = AnalysisRequest({"image": InputImages(tuple(paths))}, "0" * 64, 1, datetime(2024, 3, 5, tzinfo=UTC))
    rendered = []
    for volume in load_both(paths):
        result = build_result(
            request, model, {"image": volume}, analyse(model, {"image": volume}, device="cpu", threads=1)
        )
        objects = render(result, volume.headers)
        assert conformance.check([each.dataset for each in objects], volume.headers) == []
        rendered.append([each.to_bytes() for each in objects])
    assert rendered[0] == rendered[1] and len(rendered[0]) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"RescaleSlope": 2},
        {"RescaleIntercept": 5},
        {"BitsStored": 12, "HighBit": 11},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_15444_1"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_one_image_that_differs_is_read_in_full(tmp_path: Path, changed) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS % 4096, modality="CT")
    change(paths[2], **changed)
    _, quick = load_both(paths)
    assert not is_quick(quick)


@pytest.mark.parametrize(
    "transfer_syntax", [uid.JPEGLSLossless, uid.RLELossless, uid.JPEG2000Lossless], ids=lambda u: u.keyword
)
def test_compressed_images_are_decoded_without_their_headers(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    _, quick = load_both(paths)
    assert is_quick(quick)
    known = known_of(paths)
    change(paths[3], StudyDescription="A longer description than before")
    assert not is_quick(load_volume(paths, known))


def test_a_damaged_compressed_image_is_refused_as_when_it_is_read_in_full(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    known = known_of(paths)
    content = bytearray(paths[3].read_bytes())
    content[-200:-100] = bytes(100)
    paths[3].write_bytes(content)
    messages = []
    for each in ([], known):
        with pytest.raises(NotAnalysed) as caught:
            load_volume(paths, each)
        messages.append((caught.value.code, str(caught.value)))
    assert messages[0] == messages[1]


def test_deflated_images_are_read_in_full(tmp_path: Path) -> None:
    syntax = uid.DeflatedExplicitVRLittleEndian
    _, quick = load_both(write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=syntax))
    assert not is_quick(quick)


def test_images_noted_by_an_earlier_version_are_read_in_full(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS)
    known = known_of(paths)
    known[1] = replace(known[1], geometry={k: v for k, v in (known[1].geometry or {}).items() if k != "BitsAllocated"})
    volume = load_volume(paths, known)
    assert not is_quick(volume)
    np.testing.assert_array_equal(volume.voxels, VOXELS)


@pytest.mark.parametrize("transfer_syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless], ids=lambda u: u.keyword)
def test_an_image_whose_uid_is_none_is_read_in_full(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    known = known_of(paths)
    known[3] = replace(known[3], sop_instance_uid="1.2.\ufffd")
    assert not is_quick(load_volume(paths, known))


def test_a_file_that_is_not_what_was_noted_is_read_in_full(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS)
    known = known_of(paths)
    change(paths[3], StudyDescription="A longer description than before")
    volume = load_volume(paths, known)
    assert not is_quick(volume)
    np.testing.assert_array_equal(volume.voxels, VOXELS)


def test_a_file_cut_off_since_is_refused_with_its_code(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS)
    known = known_of(paths)
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    with pytest.raises(NotAnalysed) as caught:
        load_volume(paths, known)
    assert caught.value.code == "truncated-pixel-data"


@pytest.mark.parametrize("count", [1, 4], ids=["one slice", "a gap"])
def test_refusals_are_the_same(tmp_path: Path, count: int) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    paths = paths[:1] if count == 1 else paths[:2] + paths[3:]
    messages = []
    for known in ([], known_of(paths)):
        with pytest.raises(NotAnalysed) as caught:
            load_volume(paths, known)
        messages.append((caught.value.code, str(caught.value)))
    assert messages[0] == messages[1]


def test_repeated_positions_say_what_differs(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    paths += write_series(
        tmp_path / "b", shape=SHAPE, EchoTime=9.0, series_instance_uid=str(dcmread(paths[0]).SeriesInstanceUID)
    )
    frame = dcmread(paths[0]).FrameOfReferenceUID
    for number, path in enumerate(paths[5:]):
        change(path, FrameOfReferenceUID=frame, SOPInstanceUID=f"1.2.3.{number + 1}", StudyInstanceUID="1.2.3")
    with pytest.raises(NotAnalysed) as caught:
        load_volume(paths, known_of(paths))
    assert caught.value.code == "duplicate-position" and "EchoTime" in str(caught.value)
