"""Results on disk."""

import json
from dataclasses import fields, replace
from datetime import date

import numpy as np
import pytest

from dicom_sr.archive import ARRAYS_FILE, RESULT_FILE, load_result, save_result
from dicom_sr.errors import ArchiveError
from dicom_sr.findings import (
    Finding,
    Likelihood,
    Map,
    Measurement,
    PlanarRegion,
    PlanarShape,
    Predecessor,
    Presence,
    PriorValue,
    Qualifier,
    SourceImage,
    SpatialRegion,
    SpatialShape,
)
from dicom_sr.render import render


def assert_same(found, expected):
    for item in fields(expected):
        if item.name == "labels" and expected.labels is not None:
            np.testing.assert_array_equal(found.labels, expected.labels, strict=True)
        else:
            assert getattr(found, item.name) == getattr(expected, item.name), item.name


def test_round_trip_is_exact(result, tmp_path):
    changed = replace(
        result,
        labels=result.labels.astype(np.uint16),
        predecessors=(Predecessor("1.2.3", "1.2.4", "1.2.5"),),
        remarks=("Größe", "第二"),
        findings=(*result.findings, Finding(result.findings[0].finding, "without a place")),
        not_for_clinical_use=False,
    )
    save_result(changed, tmp_path / "result")
    assert_same(load_result(tmp_path / "result"), changed)


def test_everything_a_result_can_hold_comes_back(result, tmp_path):
    code = result.findings[0].finding
    finding = Finding(
        code,
        "all of it",
        measurements=(Measurement(code, 1.5, code, prior=PriorValue(1.0, date(2020, 2, 29), "1.2")),),
        presence=Presence.INDETERMINATE,
        likelihood=Likelihood(0.4, code, 0.5),
        regions=(
            PlanarRegion("1.2.3", PlanarShape.POINT, ((1.5, 2.5),), 3),
            SpatialRegion(SpatialShape.POINT, ((1.0, 2.0, -3.0),), "1.2.9"),
        ),
        qualifiers=(Qualifier(code, code),),
        images=("1.2.3",),
        critical=True,
    )
    values = np.linspace(0, 1, result.labels.size, dtype=np.float32).reshape(result.labels.shape)
    changed = replace(
        result,
        findings=(finding,),
        overlapping_labels=(np.flip(result.labels), result.labels),
        maps=(Map("heat", code, code, values, 1),),
        text="No acute finding.",
        further_images=(SourceImage("1.2.3", "1.2.4", "1.2.5"),),
    )
    save_result(changed, tmp_path)
    found = load_result(tmp_path)
    assert found.findings == changed.findings
    assert (found.text, found.further_images) == (changed.text, changed.further_images)
    np.testing.assert_array_equal(found.maps[0].values, values, strict=True)
    assert found.maps[0].segment_number == 1
    np.testing.assert_array_equal(found.overlapping_labels[0], np.flip(result.labels), strict=True)
    np.testing.assert_array_equal(found.label_maps[2], result.labels, strict=True)


def test_without_labels(result, tmp_path):
    changed = replace(result, labels=None)
    save_result(changed, tmp_path)
    assert not (tmp_path / ARRAYS_FILE).exists()
    assert_same(load_result(tmp_path), changed)


def test_loaded_labels_are_read_only(result, tmp_path):
    save_result(result, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        load_result(tmp_path).labels[0, 0, 0] = 1


def test_saving_again_replaces(result, tmp_path):
    save_result(result, tmp_path)
    save_result(replace(result, revision=2), tmp_path)
    assert load_result(tmp_path).revision == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARRAYS_FILE, RESULT_FILE]


def test_renders_to_the_same_bytes_after_a_round_trip(result, sources, tmp_path):
    save_result(result, tmp_path)
    first = [item.to_bytes() for item in render(result, sources)]
    assert [item.to_bytes() for item in render(load_result(tmp_path), sources)] == first


def test_damaged_folders_are_refused(result, tmp_path):
    with pytest.raises(ArchiveError, match="no complete result"):
        load_result(tmp_path)
    save_result(result, tmp_path)
    labels = (tmp_path / ARRAYS_FILE).read_bytes()
    (tmp_path / ARRAYS_FILE).write_bytes(labels[: len(labels) // 2])
    with pytest.raises(ArchiveError, match="no complete result"):
        load_result(tmp_path)
    (tmp_path / ARRAYS_FILE).unlink()
    with pytest.raises(ArchiveError, match="no complete result"):
        load_result(tmp_path)


def test_other_format_version_is_refused(result, tmp_path):
    save_result(result, tmp_path)
    tree = json.loads((tmp_path / RESULT_FILE).read_text())
    (tmp_path / RESULT_FILE).write_text(json.dumps(tree | {"format_version": 1}))
    with pytest.raises(ArchiveError, match="format version 1, expected 2"):
        load_result(tmp_path)
