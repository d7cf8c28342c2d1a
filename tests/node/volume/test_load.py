"""Series on disk, loaded: same values, right place, or the exact reason why not."""

import random
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from structlog.testing import capture_logs

from node.errors import NotAnalysed
from node.volume import load_volume
from tests.phantoms import ORIENTATIONS, default_voxels, write_series

SHAPE = (5, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500


def refused(wanted: str, paths: list[Path]) -> str:
    with pytest.raises(NotAnalysed) as caught:
        load_volume(paths)
    assert caught.value.code == wanted
    assert "Phantom" not in str(caught.value) and str(paths[0].parent) not in str(caught.value)
    return str(caught.value)


def change(path: Path, **attributes) -> None:
    """Set attributes of a file; None removes one."""
    image = dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.save_as(path, enforce_file_format=True)


def big_endian(paths: list[Path]) -> None:
    for path in paths:
        image = dcmread(path)
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
        dcmwrite(path, image, little_endian=False, implicit_vr=False)


def jpeg_lossless(paths: list[Path]) -> None:
    import gdcm

    for path in paths:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change_syntax = gdcm.ImageChangeTransferSyntax()
        change_syntax.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change_syntax.SetInput(reader.GetImage())
        assert change_syntax.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change_syntax.GetOutput())
        assert writer.Write()


@pytest.mark.parametrize(
    "transfer_syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
    ids=lambda each: each.keyword,
)
def test_values_are_those_written(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    volume = load_volume(paths)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.voxels.dtype == np.int16


@pytest.mark.parametrize("rewrite", [big_endian, jpeg_lossless])
def test_values_of_rewritten_files(tmp_path: Path, rewrite) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS + 500)
    rewrite(paths)
    np.testing.assert_array_equal(load_volume(paths).voxels, VOXELS + 500)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_is_placed_where_it_was_written(tmp_path: Path, orientation: str) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, orientation=orientation)
    random.Random(1).shuffle(paths)
    volume = load_volume(paths)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.spacing_mm == pytest.approx((3.0, 1.5, 1.5))
    assert volume.voxel_ml == pytest.approx(3.0 * 1.5 * 1.5 / 1000)
    row, column = (np.array(direction) for direction in ORIENTATIONS[orientation])
    for index, header in enumerate(volume.headers):
        place = (volume.affine_lps @ [index, 2, 3, 1])[:3]
        expected = np.array(header.ImagePositionPatient, float) + 2 * 1.5 * column + 3 * 1.5 * row
        np.testing.assert_allclose(place, expected, atol=1e-6)


def test_headers_carry_no_pixels_and_the_array_is_read_only(tmp_path: Path) -> None:
    volume = load_volume(write_series(tmp_path, shape=SHAPE))
    assert all("PixelData" not in header for header in volume.headers)
    assert [header.InstanceNumber for header in volume.headers] == [1, 2, 3, 4, 5]
    assert volume.modality == "MR" and volume.frame_of_reference_uid == volume.headers[0].FrameOfReferenceUID
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1


def test_instance_numbers_play_no_part(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS)
    for number, path in enumerate(paths):
        change(path, InstanceNumber=100 - number)
    np.testing.assert_array_equal(load_volume(paths).voxels, VOXELS)


def test_ct_becomes_hounsfield_units_in_int16(tmp_path: Path) -> None:
    stored = VOXELS.astype(np.int16) + 1000
    paths = write_series(
        tmp_path,
        shape=SHAPE,
        voxels=stored,
        modality="CT",
        RescaleIntercept=-1024,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
    )
    volume = load_volume(paths)
    assert volume.voxels.dtype == np.int16 and volume.modality == "CT"
    np.testing.assert_array_equal(volume.voxels, stored - 1024)


def test_slope_is_applied_exactly(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, modality="CT", RescaleSlope=2, RescaleIntercept=7)
    volume = load_volume(paths)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, VOXELS * 2 + 7)


def test_fractions_and_slopes_that_differ_become_float32(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, RescaleSlope=0.25, RescaleIntercept=1)
    change(paths[2], RescaleSlope=0.5)
    volume = load_volume(paths)
    assert volume.voxels.dtype == np.float32
    slopes = np.array([0.25, 0.25, 0.5, 0.25, 0.25])[:, None, None]
    np.testing.assert_array_equal(volume.voxels, (VOXELS * slopes + 1).astype(np.float32))


def test_large_unsigned_values_stay_whole(tmp_path: Path) -> None:
    stored = np.full(SHAPE, 60000, np.uint16)
    paths = write_series(tmp_path, shape=SHAPE, voxels=stored.view(np.int16), PixelRepresentation=0)
    volume = load_volume(paths)
    assert volume.voxels.dtype == np.uint16
    np.testing.assert_array_equal(volume.voxels, stored)


def test_values_beyond_both_integers_become_float32(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, np.uint16)
    stored[0] = 65000
    paths = write_series(
        tmp_path,
        shape=SHAPE,
        voxels=stored.view(np.int16),
        PixelRepresentation=0,
        modality="CT",
        RescaleIntercept=-1024,
    )
    volume = load_volume(paths)
    assert volume.voxels.dtype == np.float32
    assert (volume.voxels.min(), volume.voxels.max()) == (-1024, 63976)


@pytest.mark.parametrize("overlay", [0x5000, 0x8000], ids=hex)
def test_bits_above_bits_stored_are_cleared(tmp_path: Path, overlay: int) -> None:
    stored = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 4096
    written = (stored.view(np.uint16) | overlay).view(np.int16)
    paths = write_series(tmp_path, shape=SHAPE, voxels=written, BitsStored=12, HighBit=11, PixelRepresentation=0)
    np.testing.assert_array_equal(load_volume(paths).voxels, stored)


def test_eight_bit_images(tmp_path: Path) -> None:
    values = (np.arange(np.prod(SHAPE)) % 256).astype(np.uint8).reshape(SHAPE)
    paths = write_series(tmp_path, shape=SHAPE)
    for path, plane in zip(paths, values, strict=True):
        change(path, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=plane.tobytes())
    np.testing.assert_array_equal(load_volume(paths).voxels, values)


def test_padding_of_ct_becomes_the_lowest_value_measured(tmp_path: Path) -> None:
    stored = VOXELS.astype(np.int16) + 500
    stored[:, :3] = -2000
    lowest = int(stored[stored > -2000].min())
    paths = write_series(tmp_path, shape=SHAPE, voxels=stored, modality="CT", PixelPaddingValue=-2000)
    volume = load_volume(paths)
    assert (volume.voxels[:, :3] == lowest).all()
    np.testing.assert_array_equal(volume.voxels[:, 3:], stored[:, 3:])
    assert volume.corrections == (
        f"{5 * 3 * 36} pixels outside the field of view were given the lowest value measured.",
    )


def test_what_was_corrected_is_in_the_log(tmp_path: Path) -> None:
    positions = [[0.0, 0.5 * number, 2.0 * number] for number in range(6)]
    paths = write_series(tmp_path, shape=(6, 8, 8), spacing_mm=(2.0, 1.0, 1.0), positions_mm=positions)
    with capture_logs() as lines:
        volume = load_volume(paths)
    (line,) = (line for line in lines if line["event"] == "input_corrected")
    assert line["corrections"] == list(volume.corrections) and "tilted by 14.0 degrees" in line["corrections"][0]
    assert line["series"] == str(volume.headers[0].SeriesInstanceUID)
    assert "Phantom" not in str(lines)


def test_tilt_in_the_header_that_positions_do_not_show_is_noted(tmp_path: Path) -> None:
    volume = load_volume(write_series(tmp_path, shape=SHAPE, modality="CT", GantryDetectorTilt=12.5))
    assert "12.5 degrees" in volume.corrections[0]


def test_not_dicom(tmp_path: Path) -> None:
    path = tmp_path / "Phantom^Tom.dcm"
    path.write_bytes(b"<html>" * 100)
    assert "found no 'DICM'" in refused("not-dicom", [path])


def test_damaged_data_set(tmp_path: Path) -> None:
    path = write_series(tmp_path, shape=SHAPE)[0]
    content = path.read_bytes()
    path.write_bytes(content[:132] + b"\xff" * 200)
    assert "its data set is damaged" in refused("not-dicom", [path])


@pytest.mark.parametrize(
    "transfer_syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless], ids=lambda u: u.keyword
)
def test_mutated_files_load_or_give_a_reason(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    content = paths[1].read_bytes()
    chance = random.Random(3)
    reasons = set()
    for _ in range(25):
        mutated = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            mutated[chance.randrange(128, len(content) if chance.random() < 0.3 else 1600)] = chance.randrange(256)
        paths[1].write_bytes(mutated[: chance.choice([len(content), chance.randrange(len(content))])])
        try:
            load_volume(paths)
        except NotAnalysed as error:
            reasons.add(error.code)
    assert len(reasons) > 2


def test_header_cut_off_before_the_pixels(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    paths[1].write_bytes(paths[1].read_bytes()[: -SHAPE[1] * SHAPE[2] * 2 - 12])
    assert "has no Pixel Data" in refused("no-pixel-data", paths)


@pytest.mark.parametrize("transfer_syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless], ids=lambda u: u.keyword)
def test_truncated_pixel_data(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    paths[1].write_bytes(paths[1].read_bytes()[:-30])
    refused("truncated-pixel-data", paths)


def test_declared_length_below_the_size(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    change(paths[0], PixelData=b"\0" * 100)
    assert "found 100 bytes of pixel data, wanted at least 2880" in refused("truncated-pixel-data", paths)


def test_rle_segment_that_runs_over_its_end(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.RLELossless)
    image = dcmread(paths[2])
    frame = bytearray(get_frame(image.PixelData, 0))
    frame[64:128] = bytes([129, 7] * 32)  # each pair unpacks to 128 bytes: more than the segment holds
    image.PixelData = encapsulate([bytes(frame)])
    image.save_as(paths[2])
    refused("undecodable-pixel-data", paths)


@pytest.mark.parametrize(
    ("place", "number"),
    [(0, 1), (0, 3), (0, 0), (4, 0), (4, 63), (8, 64), (8, 32), (8, 1 << 24), (8, (1 << 32) - 1)],
)
def test_rle_segments_elsewhere_than_in_the_frame(tmp_path: Path, place: int, number: int) -> None:
    """Whoever reads them there reads other memory, or ends (PS3.5 G.5: their number, then where each begins)."""
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.RLELossless)
    image = dcmread(paths[2])
    frame = get_frame(image.PixelData, 0)
    image.PixelData = encapsulate([frame[:place] + number.to_bytes(4, "little") + frame[place + 4 :]])
    image.save_as(paths[2])
    assert "found other RLE segments" in refused("undecodable-pixel-data", paths)


def test_rle_segment_that_begins_at_the_end_of_the_frame(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.RLELossless)
    image = dcmread(paths[2])
    frame = get_frame(image.PixelData, 0)
    image.PixelData = encapsulate([frame[:8] + len(frame).to_bytes(4, "little") + frame[12:]])
    image.save_as(paths[2])
    assert "found other RLE segments" in refused("undecodable-pixel-data", paths)


def test_huge_size_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    for path in paths:
        change(path, Rows=65535, Columns=65535)
    assert "too large" in refused("unsupported-pixel-format", paths)


@pytest.mark.parametrize("transfer_syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda u: u.keyword)
def test_code_stream_of_another_size_is_refused(tmp_path: Path, transfer_syntax: uid.UID) -> None:
    paths = write_series(tmp_path, shape=SHAPE, transfer_syntax=transfer_syntax)
    for path in paths:
        change(path, Rows=4000, Columns=4000)
    assert "40 x 36 pixels" in refused("undecodable-pixel-data", paths)


@pytest.mark.parametrize("transfer_syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda u: u.keyword)
@pytest.mark.parametrize(("end", "code"), [(b"", "truncated-pixel-data"), (b"\xff\xd9", "undecodable-pixel-data")])
def test_damaged_code_stream(tmp_path: Path, transfer_syntax: uid.UID, end: bytes, code: str) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    image = dcmread(paths[2])
    image.PixelData = encapsulate([get_frame(image.PixelData, 0)[:100] + end])
    image.save_as(paths[2])
    refused(code, paths)


def test_rle_that_cannot_unpack_to_the_size(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, transfer_syntax=uid.RLELossless)
    for path in paths:
        change(path, Rows=4000, Columns=4000)
    refused("truncated-pixel-data", paths)


def test_deflated_bomb(tmp_path: Path) -> None:
    path = write_series(tmp_path, shape=SHAPE, transfer_syntax=uid.DeflatedExplicitVRLittleEndian)[0]
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(pack.compress(bytes(1 << 22)) for _ in range(40)) + pack.flush()
    path.write_bytes(content[:start] + packed)
    refused("not-dicom", [path])


def test_no_decoder(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    image = dcmread(paths[0])
    image.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    image.PixelData = encapsulate([b"\0" * 20])
    image["PixelData"].is_undefined_length = True
    image.save_as(paths[0])
    assert "MPEG2" in refused("unsupported-transfer-syntax", paths)


def test_two_series_interleaved(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", shape=SHAPE) + write_series(tmp_path / "b", shape=SHAPE)
    assert "images of 2 series" in refused("several-series", paths)


def test_same_file_twice(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    refused("duplicate-position", [*paths, paths[0]])


def test_other_sop_class(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, SOPClassUID=uid.NuclearMedicineImageStorage)
    assert "found SOP Class Nuclear Medicine Image Storage" in refused("unsupported-modality", paths)


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"PixelSpacing": None}, "missing-geometry", "PixelSpacing is missing; wanted 2 finite numbers"),
        ({"PixelSpacing": [0, 1]}, "missing-geometry", "found PixelSpacing 0, 1"),
        ({"ImagePositionPatient": None}, "missing-geometry", "ImagePositionPatient is missing"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "missing-geometry", "ImageOrientationPatient is not usable"),
        ({"FrameOfReferenceUID": None}, "missing-geometry", "no FrameOfReferenceUID"),
        ({"SOPInstanceUID": None}, "missing-geometry", "no SOPInstanceUID"),
        ({"Rows": None}, "missing-geometry", "Rows None"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelRepresentation": 0},
            "unsupported-pixel-format",
            "found Samples per Pixel 3, wanted 1",
        ),
        ({"PhotometricInterpretation": "RGB"}, "unsupported-pixel-format", "found Photometric Interpretation RGB"),
        ({"BitsAllocated": 32}, "unsupported-pixel-format", "found Bits Allocated 32, wanted 8 or 16"),
        ({"NumberOfFrames": 2}, "missing-geometry", "2 frames and no functional groups"),
        ({"RescaleSlope": 0}, "unsupported-pixel-format", "found RescaleSlope 0"),
        ({"Rows": 39}, "mixed-size", "40 x 36 and 39 x 36"),
        ({"FrameOfReferenceUID": "1.2.3"}, "mixed-frame-of-reference", "2 frames of reference"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "mixed-orientation", "direction cosines differ"),
    ],
)
def test_faults_of_one_image(tmp_path: Path, changed, code: str, words: str) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    change(paths[3], **changed)
    assert words in refused(code, paths)


def test_missing_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE)
    assert "1 missing in all" in refused("gap-in-stack", paths[:2] + paths[3:])


def test_no_files() -> None:
    with pytest.raises(NotAnalysed) as caught:
        load_volume([])
    assert caught.value.code == "too-few-slices"


def test_modality_lut_sequence(tmp_path: Path) -> None:
    stored = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 8
    entries = [0, 10, 30, 60, 100, 150, 210, 280]
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [8, 0, 16], "US"
    table.LUTData = np.array(entries, "<u2").tobytes()
    paths = write_series(tmp_path, shape=SHAPE, voxels=stored, PixelRepresentation=0)
    for path in paths:
        image = dcmread(path)
        image.ModalityLUTSequence = [table]
        image.save_as(path)
    np.testing.assert_array_equal(load_volume(paths).voxels, np.array(entries)[stored])


def test_fragments_are_joined(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)
    for path in paths:
        image = dcmread(path)
        image.PixelData = encapsulate([get_frame(image.PixelData, 0)], fragments_per_frame=3)
        image.save_as(path)
    np.testing.assert_array_equal(load_volume(paths).voxels, VOXELS)


def test_length_far_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = write_series(tmp_path, shape=SHAPE)[0]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xe0\x7f\x10\x00OW")
    content[start : start + 12] = b"\x09\x00\x10\x00OB\0\0\xf0\xff\xff\xff"
    path.write_bytes(content)
    tracemalloc.start()
    refused("no-pixel-data", [path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24
