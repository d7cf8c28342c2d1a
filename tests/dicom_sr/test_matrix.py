"""Every profile on every kind of result: our own gate, and what programs made by others say.

The pairs that `make test` runs cover each kind of object; `make soak` runs all.
"""

import os
from io import BytesIO
from itertools import product
from pathlib import Path

import pytest
from highdicom.seg import segread
from highdicom.sr import srread

from dicom_sr import content_tree
from dicom_sr.conformance import check
from dicom_sr.profile import Role
from dicom_sr.profile_files import named_profile, shipped_names
from dicom_sr.render import RenderedObject, file_names, render
from tests.dicom_sr.cases import CASES, Case
from tests.dicom_sr.counterparts import complaints, run

CHOSEN = (
    ("conservative", "17 labels"),
    ("conservative", "mammography"),
    ("conservative", "overlap"),
    ("conservative", "empty"),
    ("conservative", "follow-up"),
    ("ohif", "chest boxes"),
    ("ohif", "in space"),
    ("slicer", "lung mask"),
    ("weasis", "overlap"),
    ("mammography-cad", "mammography"),
    ("labelmap", "17 labels"),
    ("legacy", "chest boxes"),
)
PAIRS = tuple(product(shipped_names(), CASES)) if os.environ.get("OVERREAD_SOAK") == "1" else CHOSEN


@pytest.fixture(params=PAIRS, ids=lambda pair: " on ".join(pair), scope="module")
def rendered(request) -> tuple[str, Case, list[RenderedObject]]:
    """Name of the profile, the case, and its objects."""
    name, case = request.param[0], CASES[request.param[1]]()
    return name, case, render(case.result, case.sources, named_profile(name))


def test_others_read_back_what_was_written(rendered):
    """highdicom takes every Segmentation and report apart, and finds the numbers and segments of the Result."""
    _, case, objects = rendered
    labels = {segment.label for segment in case.result.present_segments}
    read_labels: set[str] = set()
    for each in objects:
        if each.role is Role.SEGMENTATION:
            segmentation = segread(BytesIO(each.to_bytes()))
            read_labels |= {segmentation.get_segment_description(n).segment_label for n in segmentation.segment_numbers}
        if each.role in (Role.REPORT, Role.REPORT_WITHOUT_PLACE):
            content = srread(BytesIO(each.to_bytes())).content
            groups = [
                *content.get_planar_roi_measurement_groups(),
                *content.get_volumetric_roi_measurement_groups(),
                *content.get_image_measurement_groups(),
            ]
            assert len(groups) == len(content_tree.measurement_groups(each.dataset))
    if any(each.role is Role.SEGMENTATION for each in objects):
        assert read_labels == labels


def test_something_is_told_and_passes_the_gate(rendered):
    name, case, objects = rendered
    assert objects
    datasets = [each.dataset for each in objects]
    assert check(datasets, case.sources, result=case.result, profile=named_profile(name)) == []


@pytest.mark.counterpart("dicom3tools", "dcmtk", "dcmqi")
def test_validators_have_nothing_to_say(rendered, tmp_path: Path):
    name, case, objects = rendered
    paths = [tmp_path / file_name for file_name in file_names(objects)]
    for each, path in zip(objects, paths, strict=True):
        path.write_bytes(each.to_bytes())
        assert complaints(run("dciodvfy", "-new", path)) == []
        if each.dataset.Modality in ("SR", "KO") and name != "labelmap":
            # dcmtk 3.6.7 takes a reference to a Label Map Segmentation for one to no image at all
            assert complaints(run("dsrdump", path)) == []
        if each.role is Role.SEGMENTATION:
            assert complaints(run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path)) == []
        if each.role in (Role.REPORT, Role.REPORT_WITHOUT_PLACE):
            assert complaints(run("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "x.json")) == []
    if case.result.further_images:
        return  # dcentvfy misses the images of the earlier study
    (tmp_path / "images").mkdir()
    for number, source in enumerate(case.sources):
        source.save_as(tmp_path / "images" / f"{number}.dcm", enforce_file_format=True)
    assert complaints(run("dcentvfy", *paths, *sorted((tmp_path / "images").iterdir()))) == []
