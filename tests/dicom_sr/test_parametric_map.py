"""Parametric Maps, beside highdicom's and read back by it and dcmqi."""

from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.evidence import check_evidence
from dicom_sr.findings import Map
from dicom_sr.parametric_map import encode_parametric_maps, value_range
from dicom_sr.part10 import to_part10
from tests.dicom_sr.counterparts import assert_clean
from tests.dicom_sr.test_segmentation_equality import SHAPE, differences, make_result
from tests.phantoms import make_series

HEAT = codes.concept("111047", "DCM", "Probability of cancer")
VALUES = np.random.default_rng(5).random(SHAPE).astype(np.float32) * 3 - 1


@pytest.fixture
def written() -> tuple[Dataset, list[Dataset]]:
    """A map of an oblique series, written and read again, and its sources."""
    sources = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.25), orientation="oblique")
    result = make_result(sources, maps=(Map("Heat", HEAT, codes.PERCENT, VALUES),))
    (dataset,) = encode_parametric_maps(result, sources)
    return dcmread(BytesIO(to_part10(dataset))), sources


def test_every_value_comes_back_at_its_image(written):
    dataset, sources = written
    place = {str(source.SOPInstanceUID): index for index, source in enumerate(sources)}
    for frame, values in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        np.testing.assert_array_equal(values, VALUES[place[reference.ReferencedSOPInstanceUID]])


def test_quantity_unit_and_range_are_said(written):
    (mapping,) = written[0].SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Probability of cancer"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == VALUES.min()
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == VALUES.max()


def test_equals_highdicoms(written):
    dataset, sources = written
    result = make_result(sources, maps=(Map("Heat", HEAT, codes.PERCENT, VALUES),))
    evidence = check_evidence(result, sources)
    lowest, highest = value_range(VALUES)
    window = dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    theirs = hd.pm.ParametricMap(
        source_images=evidence.images,
        pixel_array=VALUES,
        series_instance_uid=dataset.SeriesInstanceUID,
        series_number=dataset.SeriesNumber,
        sop_instance_uid=dataset.SOPInstanceUID,
        instance_number=1,
        manufacturer="Overread",
        manufacturer_model_name="Overread AI node",
        software_versions="0.1.0",
        device_serial_number="node-1",
        series_description=dataset.SeriesDescription,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label="Heat",
                lut_explanation="Heat",
                unit=codes.PERCENT,
                value_range=[lowest, highest],
                slope=1.0,
                intercept=0.0,
                quantity_definition=HEAT,
            )
        ],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=window.WindowCenter, window_width=window.WindowWidth, voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_label="AI_MAP",
        content_description=dataset.ContentDescription,
        content_creator_name=dataset.ContentCreatorName,
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
    )
    buffer = BytesIO()
    theirs.save_as(buffer)
    del dataset.Laterality  # which dciodvfy misses in highdicom's
    expected = dcmread(BytesIO(buffer.getvalue()))
    expected.FloatPixelData = np.frombuffer(expected.FloatPixelData, "<f4").reshape(SHAPE)[::-1].tobytes()
    expected.PerFrameFunctionalGroupsSequence.reverse()
    assert differences(dataset, expected) == []


def test_frames_ascend_along_the_normal(written):
    """Viewers that do not look where frames lie take them for ascending."""
    dataset, sources = written
    along_row, along_column = np.array(sources[0].ImageOrientationPatient, float).reshape(2, 3)
    positions = [
        frame.PlanePositionSequence[0].ImagePositionPatient for frame in dataset.PerFrameFunctionalGroupsSequence
    ]
    heights = np.array(positions, float) @ np.cross(along_row, along_column)
    assert (np.diff(heights) > 0).all()


def test_several_maps_are_one_series():
    sources = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.25))
    maps = tuple(Map(name, HEAT, codes.PERCENT, VALUES) for name in ("Heat", "More heat"))
    encoded = encode_parametric_maps(make_result(sources, maps=maps), sources)
    assert [each.InstanceNumber for each in encoded] == [1, 2]
    assert len({each.SeriesInstanceUID for each in encoded}) == 1
    assert len({each.SOPInstanceUID for each in encoded}) == 2


def test_range_of_what_is_no_number():
    assert value_range(np.array([[[np.nan, 2.0]], [[np.inf, -1.0]]])) == (-1.0, 2.0)
    assert value_range(np.full((1, 1, 2), np.nan)) == (0.0, 1.0)
    assert value_range(np.full((1, 1, 2), 4.0)) == (4.0, 5.0)


def test_highdicom_reads_the_same_volume(written, tmp_path):
    dataset, _ = written
    path = tmp_path / "map.dcm"
    path.write_bytes(to_part10(dataset))
    volume = hd.imread(path).get_volume()
    np.testing.assert_allclose(volume.array, VALUES[::-1], rtol=1e-6)
    assert volume.spacing == pytest.approx((3.0, 1.5, 1.25))


@pytest.mark.counterpart("dicom3tools")
def test_dciodvfy_has_nothing_to_say(written, tmp_path):
    assert_clean(written[0], tmp_path)
