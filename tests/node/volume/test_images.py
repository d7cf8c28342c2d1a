"""Projection images, loops and secondary captures: the values, the spacing and the display that the standard says."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut, apply_windowing, convert_color_space

from node.errors import NotAnalysed
from node.volume import KnownInstance, load_image
from node.volume.codecs import JPEG_XL_LOSSLESS
from tests.node.volume.images import write_image

RAMP = (np.add.outer(np.arange(20) * 40, np.arange(16) * 3)).astype(np.uint16)
TWELVE = {"BitsStored": 12}
RGB = np.random.default_rng(3).integers(0, 256, (3, 20, 16, 3), dtype=np.uint8)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "NumberOfFrames": 3}
SIZE = {"Rows": 20, "Columns": 16, "BitsAllocated": 8, "BitsStored": 8}


def refused(wanted: str, path: Path) -> str:
    with pytest.raises(NotAnalysed) as caught:
        load_image(path)
    assert caught.value.code == wanted
    assert "Phantom" not in str(caught.value) and str(path.parent) not in str(caught.value)
    return str(caught.value)


def lookup(first: int, entries: list[int], bits: int) -> Dataset:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [len(entries), first, bits], "US"
    table.LUTData = np.array(entries, "<u2").tobytes()
    return table


def test_monochrome_2_as_it_is(tmp_path: Path) -> None:
    images = load_image(write_image(tmp_path / "a.dcm", RAMP, **TWELVE))
    np.testing.assert_array_equal(images.pixels, RAMP[None])
    assert images.pixels.dtype == np.int16 and not images.is_colour and images.padding is None
    assert images.corrections == () and "PixelData" not in images.header
    shown = images.presented()
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, RAMP[None] / RAMP.max(), atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        images.pixels[0, 0, 0] = 1


def test_monochrome_1_is_turned_about_its_range_and_shown_as_a_viewer_shows_it(tmp_path: Path) -> None:
    window = {"WindowCenter": 400, "WindowWidth": 500}
    path = write_image(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **TWELVE, **window)
    images = load_image(path)
    np.testing.assert_array_equal(images.pixels, 4095 - RAMP[None].astype(int))
    assert "MONOCHROME1" in images.corrections[0]
    windowed = apply_windowing(RAMP, dcmread(path)) / 4095
    np.testing.assert_allclose(images.presented()[0], 1 - windowed, atol=1e-5)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 2, 301.5])
def test_windows(tmp_path: Path, function: str, width: float) -> None:
    path = write_image(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=[310, 1],
        WindowWidth=[width, 5],
        VOILUTFunction=function,
        **TWELVE,
    )
    image = dcmread(path)
    low, high = -100, 4095 * 2 - 100
    with np.errstate(over="ignore"):
        wanted = (apply_windowing(RAMP * 2.0 - 100, image) - low) / (high - low)
    np.testing.assert_allclose(load_image(path).presented()[0], wanted, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_modality_and_voi_tables(tmp_path: Path, bits: int) -> None:
    modality = [min(value * value // 900, (1 << bits) - 1) for value in range(700)]
    voi = [int(value) for value in np.linspace(0, (1 << bits) - 1, 180)]
    path = write_image(
        tmp_path / "a.dcm",
        RAMP,
        ModalityLUTSequence=[lookup(20, modality, bits)],
        VOILUTSequence=[lookup(10, voi, bits)],
        WindowCenter=5,
        WindowWidth=5,
        **TWELVE,
    )
    images = load_image(path)
    values = np.array(modality)[np.clip(RAMP.astype(int) - 20, 0, len(modality) - 1)]
    np.testing.assert_array_equal(images.pixels[0], values)
    shown = np.array(voi)[np.clip(values - 10, 0, len(voi) - 1)] / ((1 << bits) - 1)
    np.testing.assert_allclose(images.presented()[0], shown, atol=1e-6)
    if bits == 16:
        np.testing.assert_allclose(shown, apply_voi_lut(values, dcmread(path)) / 65535, atol=1e-6)


def test_table_for_values_below_zero_written_as_unsigned(tmp_path: Path) -> None:
    voi = lookup(65536 - 500, list(range(0, 60000, 100)), 16)
    path = write_image(tmp_path / "a.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-500, VOILUTSequence=[voi], **TWELVE)
    np.testing.assert_allclose(load_image(path).presented()[0], np.minimum(RAMP, 599) * 100 / 65535, atol=1e-5)


def test_window_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    images = load_image(write_image(tmp_path / "a.dcm", RAMP, WindowCenter=5, WindowWidth=0, **TWELVE))
    assert images.corrections == ("The window of the image cannot be used.",)
    assert images.presented().max() == 1


def test_padding_is_masked_and_dark(tmp_path: Path) -> None:
    stored = RAMP + 10
    stored[:4], stored[4, :8] = 4000, 4090
    path = write_image(tmp_path / "a.dcm", stored, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000, **TWELVE)
    images = load_image(path)
    outside = stored >= 4000
    assert images.padding is not None
    np.testing.assert_array_equal(images.padding[0], outside)
    assert (images.pixels[0][outside] == stored[~outside].min()).all()
    np.testing.assert_array_equal(images.pixels[0][~outside], stored[~outside])
    assert (images.presented()[0][outside] == 0).all() and images.presented().max() == 1
    assert f"{outside.sum()} pixels outside the image" in images.corrections[0]


def test_signed_padding_written_as_unsigned(tmp_path: Path) -> None:
    stored = RAMP.astype(np.int16)
    stored[:4] = -2000
    path = write_image(tmp_path / "a.dcm", stored)
    image = dcmread(path)
    image.add_new("PixelPaddingValue", "US", 65536 - 2000)
    image.save_as(path)
    images = load_image(path)
    assert images.padding is not None and images.padding.sum() == 4 * 16


@pytest.mark.parametrize(("bits_stored", "high_bit"), [(12, 11), (10, 13), (12, 15), (7, 6)])
@pytest.mark.parametrize("kind", ["u2", "i2", "u1"])
def test_overlays_around_the_stored_bits_are_cleared(
    tmp_path: Path, bits_stored: int, high_bit: int, kind: str
) -> None:
    allocated = np.dtype(kind).itemsize * 8
    if high_bit >= allocated:
        bits_stored, high_bit = 5, 6
    values = np.arange(320).reshape(20, 16) % (1 << bits_stored)
    below = high_bit + 1 - bits_stored
    around = ((1 << allocated) - 1) & ~(((1 << bits_stored) - 1) << below)
    stored = ((values << below) | around).astype(f"u{allocated // 8}").view(kind)
    images = load_image(write_image(tmp_path / "a.dcm", stored, BitsStored=bits_stored, HighBit=high_bit))
    wanted = np.where(values >= 1 << (bits_stored - 1), values - (1 << bits_stored), values) if kind == "i2" else values
    np.testing.assert_array_equal(images.pixels[0], wanted)


def test_value_in_other_bits_of_a_compressed_image_is_refused(tmp_path: Path) -> None:
    stream = imagecodecs.jpegls_encode(RAMP)
    settings = {**SIZE, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 13}
    path = write_image(tmp_path / "a.dcm", streams=[stream], transfer_syntax=uid.JPEGLSLossless, **settings)
    assert "found High Bit 13 in a compressed image, wanted 11" in refused("unsupported-pixel-format", path)


@pytest.mark.parametrize(
    ("syntax", "planar"),
    [(uid.ExplicitVRLittleEndian, 0), (uid.ExplicitVRLittleEndian, 1), (uid.RLELossless, 0)],
    ids=["by pixel", "by plane", "RLE"],
)
def test_native_and_rle_colour(tmp_path: Path, syntax: uid.UID, planar: int) -> None:
    lying = np.moveaxis(RGB, 3, 1) if planar else RGB
    settings = {**COLOUR, "Rows": 20, "Columns": 16, "PlanarConfiguration": planar}
    path = write_image(tmp_path / "a.dcm", np.ascontiguousarray(lying), **settings)
    if syntax.is_compressed:
        image = dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path)
    images = load_image(path)
    np.testing.assert_array_equal(images.pixels, RGB)
    assert images.is_colour and images.pixels.dtype == np.uint8
    np.testing.assert_allclose(images.presented(), RGB / 255, atol=1e-6)


def test_native_luminance_and_chrominance(tmp_path: Path) -> None:
    settings = {**COLOUR, "Rows": 20, "Columns": 16, "PhotometricInterpretation": "YBR_FULL"}
    images = load_image(write_image(tmp_path / "a.dcm", RGB, **settings))
    wanted = convert_color_space(RGB, "YBR_FULL", "RGB", per_frame=True)
    assert np.abs(images.pixels.astype(int) - wanted.astype(int)).max() <= 1


def test_native_chrominance_stored_once_for_two_pixels(tmp_path: Path) -> None:
    light, chroma = RGB[0, ..., 0], RGB[0, :, ::2, 1:]
    lying = np.stack([light[:, ::2], light[:, 1::2], chroma[..., 0], chroma[..., 1]], axis=-1)
    settings = {**COLOUR, "Rows": 20, "Columns": 16, "PhotometricInterpretation": "YBR_FULL_422", "NumberOfFrames": 1}
    path = write_image(tmp_path / "a.dcm", lying, **settings)
    full = np.stack([light, np.repeat(chroma[..., 0], 2, 1), np.repeat(chroma[..., 1], 2, 1)], axis=-1)
    wanted = convert_color_space(full, "YBR_FULL", "RGB")
    assert np.abs(load_image(path).pixels[0].astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("has_offset_table", [True, False])
def test_jpeg_loop_in_colour(tmp_path: Path, has_offset_table: bool) -> None:
    columns, rows = np.meshgrid(np.arange(16), np.arange(20))
    frames = [np.stack([rows * 9, columns * 12, rows + columns + n * 30], axis=-1).astype(np.uint8) for n in range(3)]
    streams = [imagecodecs.jpeg8_encode(each, level=98, subsampling="444") for each in frames]
    path = write_image(
        tmp_path / "a.dcm",
        streams=streams,
        transfer_syntax=uid.JPEGBaseline8Bit,
        has_offset_table=has_offset_table,
        **{**COLOUR, **SIZE, "PhotometricInterpretation": "YBR_FULL_422"},
    )
    pixels = load_image(path).pixels
    assert np.abs(pixels.astype(int) - np.array(frames, dtype=int)).max() <= 8
    wanted = convert_color_space(dcmread(path, defer_size=None).pixel_array, "RGB", "RGB")
    assert np.abs(pixels.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEG2000Lossless, lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="J2K", reversible=True)),
        (uid.HTJ2KLossless, lambda frame: imagecodecs.htj2k_encode(frame, reversible=True)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEG_XL_LOSSLESS, lambda frame: imagecodecs.jpegxl_encode(frame, lossless=True)),
    ],
    ids=["JPEG 2000", "HTJ2K", "JPEG-LS", "JPEG XL"],
)
def test_lossless_colour_loop(tmp_path: Path, syntax: uid.UID, encode) -> None:
    streams = [encode(np.ascontiguousarray(frame)) for frame in RGB]
    path = write_image(tmp_path / "a.dcm", streams=streams, transfer_syntax=syntax, **{**COLOUR, **SIZE})
    np.testing.assert_array_equal(load_image(path).pixels, RGB)


def palette(entries: np.ndarray, bits: int) -> dict[str, object]:
    kind = "u1" if bits == 8 else "<u2"
    found: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for index, colour in enumerate(("Red", "Green", "Blue")):
        found[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries), 3, bits]
        found[f"{colour}PaletteColorLookupTableData"] = entries[:, index].astype(kind).tobytes()
    return found


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path: Path, bits: int) -> None:
    entries = np.random.default_rng(4).integers(0, 1 << bits, (200, 3))
    stored = (RAMP % 256).astype(np.uint8)
    images = load_image(write_image(tmp_path / "a.dcm", stored, **palette(entries, bits)))
    np.testing.assert_array_equal(images.pixels[0], entries[np.clip(stored.astype(int) - 3, 0, 199)])
    assert images.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)


def test_segmented_palette(tmp_path: Path) -> None:
    ramp = np.array([1, 256, 65280], "<u2").tobytes()  # linear over 256 entries, from the value before it: 0
    start = np.array([0, 1, 0], "<u2").tobytes()
    found: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        found[f"{colour}PaletteColorLookupTableDescriptor"] = [257, 0, 16]
        found[f"Segmented{colour}PaletteColorLookupTableData"] = start + ramp
    images = load_image(write_image(tmp_path / "a.dcm", (RAMP % 256).astype(np.uint8), **found))
    np.testing.assert_array_equal(images.pixels[0, ..., 1], RAMP % 256 * 255)


def test_damaged_palette_is_refused(tmp_path: Path) -> None:
    found = palette(np.zeros((200, 3), int), 16)
    found["GreenPaletteColorLookupTableData"] = b"\0" * 10
    path = write_image(tmp_path / "a.dcm", (RAMP % 256).astype(np.uint8), **found)
    assert "colour palette cannot be used" in refused("unsupported-pixel-format", path)


@pytest.mark.parametrize(
    ("attributes", "spacing_mm", "words"),
    [
        ({}, None, ()),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), ()),
        ({"PixelSpacing": [0, 0]}, None, ("not usable",)),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), ("at the detector, not in the patient",)),
        (
            {"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.1, 0.1]},
            (0.1, 0.1),
            ("at the detector, not in the patient",),
        ),
        (
            {
                "ImagerPixelSpacing": [0.1, 0.1],
                "PixelSpacing": [0.08, 0.08],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.08, 0.08),
            ("an object of known size",),
        ),
        ({"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.08, 0.08]}, (0.08, 0.08), ("does not say how",)),
        (
            {"ImagerPixelSpacing": [0.1, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25},
            (0.08, 0.16),
            ("estimated magnification of 1.25",),
        ),
        ({"NominalScannedPixelSpacing": [0.17, 0.17]}, (0.17, 0.17), ("scanned film",)),
    ],
)
def test_spacing_and_what_it_means(tmp_path: Path, attributes, spacing_mm, words) -> None:
    images = load_image(write_image(tmp_path / "a.dcm", RAMP, **attributes))
    assert images.spacing_mm == pytest.approx(spacing_mm)
    assert len(images.corrections) == len(words)
    assert all(word in remark for word, remark in zip(words, images.corrections, strict=True))


def test_spacing_of_an_ultrasound_region(tmp_path: Path) -> None:
    region = Dataset()
    region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    path = write_image(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=[region])
    assert load_image(path).spacing_mm == pytest.approx((0.3, 0.2))


def test_functional_groups_say_spacing_rescale_and_window_of_each_frame(tmp_path: Path) -> None:
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.085, 0.085]
    shared.PixelMeasuresSequence = [measures]
    frames = []
    for number in range(3):
        groups, values, voi = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = number + 1, 10 * number, "US"
        voi.WindowCenter, voi.WindowWidth = 200 * (number + 1), 300
        groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [values], [voi]
        frames.append(groups)
    stored = np.stack([RAMP, RAMP + 1, RAMP + 2])
    path = write_image(
        tmp_path / "a.dcm",
        stored,
        SOPClassUID=uid.BreastTomosynthesisImageStorage,
        NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **TWELVE,
    )
    images = load_image(path)
    assert images.spacing_mm == (0.085, 0.085)
    scale = np.array([1, 2, 3])[:, None, None]
    values = stored.astype(int) * scale + (scale - 1) * 10
    np.testing.assert_array_equal(images.pixels, values)
    wanted = np.clip((values - (200 * scale - 0.5)) / 299 + 0.5, 0, 1)
    np.testing.assert_allclose(images.presented(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        ({"SOPClassUID": uid.SegmentationStorage}, "unsupported-modality", "found SOP Class Segmentation Storage"),
        ({"StudyInstanceUID": None}, "missing-geometry", "no StudyInstanceUID"),
        ({"PhotometricInterpretation": "HSV"}, "unsupported-pixel-format", "found Photometric Interpretation HSV"),
        (
            {"BitsAllocated": 32, "BitsStored": 32},
            "unsupported-pixel-format",
            "found Bits Allocated 32, wanted 8 or 16",
        ),
        ({"NumberOfFrames": 9}, "truncated-pixel-data", "found 640 bytes of pixel data, wanted at least 5760"),
        ({"NumberOfFrames": 0}, "unsupported-pixel-format", "found Number of Frames 0, wanted 1 to 65536"),
        ({"Rows": 60000, "Columns": 60000}, "unsupported-pixel-format", "too large"),
        ({"Rows": 8192, "Columns": 8192, "NumberOfFrames": 60000}, "unsupported-pixel-format", "too large"),
        ({"PixelData": None}, "no-pixel-data", "has no Pixel Data"),
    ],
)
def test_what_is_refused(tmp_path: Path, attributes, code: str, words: str) -> None:
    path = write_image(tmp_path / "a.dcm", RAMP)
    image = dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.HighBit = image.BitsStored - 1
    image.save_as(path)
    assert words in refused(code, path)


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    streams = [imagecodecs.jpegls_encode(RAMP)] * 2
    settings = {**SIZE, "BitsAllocated": 16, "BitsStored": 12, "NumberOfFrames": 5}
    path = write_image(tmp_path / "a.dcm", streams=streams, transfer_syntax=uid.JPEGLSLossless, **settings)
    assert "hold 2 frames, the header says 5" in refused("undecodable-pixel-data", path)


def test_another_instance_in_its_place_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.dcm", RAMP)
    known = KnownInstance(path, "1.2.3", "1.2", uid.ExplicitVRLittleEndian, None, None, None)
    with pytest.raises(NotAnalysed, match="in the place of instance"):
        load_image(path, known)
