"""The gate on objects that are drawn or mapped: it passes what we write, and names what was spoilt."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.conformance import check
from dicom_sr.findings import Map
from dicom_sr.frame_groups import PER_FRAME, read_frame_groups
from dicom_sr.parametric_map import encode_parametric_maps
from dicom_sr.part10 import to_part10
from dicom_sr.presentation_state import encode_presentation_states
from dicom_sr.secondary_capture import encode_secondary_capture
from dicom_sr.segmentation import encode_segmentations
from dicom_sr.structure_set import encode_structure_set


def written(dataset: Dataset) -> Dataset:
    return dcmread(BytesIO(to_part10(dataset)))


def objects_of(result, sources) -> dict[str, Dataset]:
    """One object of each kind, written and read again."""
    return {
        "PR": written(encode_presentation_states(result, sources)[0]),
        "SC": written(encode_secondary_capture(result, sources)),
        "MAP": written(encode_parametric_maps(result, sources)[0]),
        "RTSTRUCT": written(encode_structure_set(result, sources)),
    }


@pytest.fixture
def mapped_result(make_result, sources):
    values = np.random.default_rng(2).random((len(sources), sources[0].Rows, sources[0].Columns))
    return make_result(sources, maps=(Map("Heat", codes.RATIO, codes.NO_UNITS, values.astype(np.float32)),))


def test_what_we_write_passes(mapped_result, sources):
    for dataset in objects_of(mapped_result, sources).values():
        assert check([dataset], sources) == []


def _move_contour(dataset: Dataset) -> None:
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [float(value) + 0.5 for value in contour.ContourData]


def _drop_contour(dataset: Dataset) -> None:
    del dataset.ROIContourSequence[0].ContourSequence[0]


def _drop_observation(dataset: Dataset) -> None:
    del dataset.RTROIObservationsSequence[0]


def _unknown_image(dataset: Dataset) -> None:
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"


def _beyond(dataset: Dataset) -> None:
    graphic = next(item for item in dataset.GraphicAnnotationSequence if "GraphicObjectSequence" in item)
    graphic.GraphicObjectSequence[0].GraphicData[0] = 99.0


def _other_layer(dataset: Dataset) -> None:
    dataset.GraphicAnnotationSequence[1].GraphicLayer = "NOWHERE"


def _silent(dataset: Dataset) -> None:
    dataset.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue = "Result"


def _fewer_points(dataset: Dataset) -> None:
    graphic = next(item for item in dataset.GraphicAnnotationSequence if "GraphicObjectSequence" in item)
    graphic.GraphicObjectSequence[0].NumberOfGraphicPoints = 3


def _shorter(dataset: Dataset) -> None:
    keyword = "FloatPixelData" if "FloatPixelData" in dataset else "PixelData"
    dataset[keyword].value = dataset[keyword].value[:-8]


def _shifted(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 1


def _unnamed(dataset: Dataset) -> None:
    del dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0].QuantityDefinitionSequence


@pytest.mark.parametrize(
    "kind, spoil, code",
    [
        ("RTSTRUCT", _move_contour, "geometry"),
        ("RTSTRUCT", _drop_contour, "volume"),
        ("RTSTRUCT", _drop_observation, "reference"),
        ("PR", _beyond, "geometry"),
        ("PR", _other_layer, "viewer"),
        ("PR", _silent, "viewer"),
        ("PR", _fewer_points, "viewer"),
        ("SC", _shorter, "attribute"),
        ("SC", _unknown_image, "reference"),
        ("MAP", _shorter, "attribute"),
        ("MAP", _shifted, "geometry"),
        ("MAP", _unnamed, "viewer"),
    ],
)
def test_what_was_spoilt_is_named(
    mapped_result, sources, kind: str, spoil: Callable[[Dataset], None], code: str
) -> None:
    dataset = objects_of(mapped_result, sources)[kind]
    spoil(dataset)
    assert code in {problem.code for problem in check([dataset], sources)}


def test_frames_are_read_the_same_from_bytes_and_from_data_sets(result, sources):
    dataset = written(encode_segmentations(result, sources)[0])
    assert dataset.get_item(PER_FRAME).is_raw
    from_bytes = read_frame_groups(dataset)
    assert dataset.get_item(PER_FRAME).is_raw
    assert len(dataset.PerFrameFunctionalGroupsSequence) == len(from_bytes)  # parsed now
    assert read_frame_groups(dataset) == from_bytes
    assert {frame.segment_number for frame in from_bytes} == {1, 2}
    assert {uid for frame in from_bytes for uid, _ in frame.sources} <= {str(each.SOPInstanceUID) for each in sources}


def test_frames_of_undefined_length_are_read_too(result, sources):
    dataset = encode_segmentations(result, sources)[0]
    expected = read_frame_groups(dataset)
    again = written(dataset)
    again["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    for item in again.PerFrameFunctionalGroupsSequence:
        item.is_undefined_length_sequence_item = True
        item["PlanePositionSequence"].is_undefined_length = True
    buffer = BytesIO()
    dcmwrite(buffer, again)
    assert read_frame_groups(dcmread(BytesIO(buffer.getvalue()))) == expected


def test_the_gate_does_not_parse_frames(result, sources):
    (dataset,) = encode_segmentations(result, sources)
    assert check([dataset], sources) == []
    assert dataset.get_item(PER_FRAME).is_raw
