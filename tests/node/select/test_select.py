"""Routes, choice of series and the reasons: pure, on series made by hand."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from node.infer.manifest import Manifest, load_manifest
from node.select.choose import choose_inputs, input_digest
from node.select.decide import StudyTrace, decide
from node.select.requirements import check_requirements
from node.select.rules import all_met, check_match
from node.select.stack import stack_of
from node.settings import Match, Route
from node.store.catalogue import StoredInstance, StoredSeries
from tests.node.select.examples import NOW, series


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The manifest of the bundled model."""
    return load_manifest(Path(__file__).parents[3] / "config" / "models" / "brain-ventricles")


def route(**match: Any) -> Route:
    return Route(name="r", match=Match(**match), models=("brain-ventricles",))


def trace_of(manifest: Manifest, *found: StoredSeries, **match: Any) -> StudyTrace:
    return decide(found, [route(**match)], {"brain-ventricles": manifest})


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"modality": ["mr"]}, True),
        ({"modality": ["CT", "MR"]}, True),
        ({"modality": ["CT"]}, False),
        ({"calling_ae_title": ["MR1"]}, True),
        ({"calling_ae_title": ["MR2"]}, False),
        ({"called_ae_title": ["OVERREAD"]}, True),
        ({"sop_class_uid": ["1.2.840.10008.5.1.4.1.1.2"]}, False),
        ({"body_part_examined": ["head"]}, True),
        ({"manufacturer": "siem"}, True),
        ({"manufacturer": "^GE"}, False),
        ({"series_description": "mprage"}, True),
        ({"study_description": "brain"}, False),
        ({"protocol_name": "x"}, False),
        ({"minimum_instances": 160}, True),
        ({"minimum_instances": 161}, False),
    ],
)
def test_conditions_of_a_route(match: dict[str, Any], matches: bool) -> None:
    assert all_met(check_match(Match(**match), series())) is matches


def test_condition_says_what_was_wanted_and_found() -> None:
    (condition,) = check_match(Match(modality=["CT", "PT"]), series())
    assert (condition.name, condition.wanted, condition.found) == ("Modality", "CT or PT", "MR")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"Modality": "CT"}, "Modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"}, "SOP Class"),
        ({"MRAcquisitionType": "2D"}, "MR Acquisition Type"),
        ({"MRAcquisitionType": None}, "MR Acquisition Type"),
        ({"BodyPartExamined": "KNEE"}, "Body Part Examined"),
        ({"SeriesDescription": "t2_FLAIR_sag"}, "Series Description"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, "Image Type"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "Image Type"),
        ({"slices": 20}, "slices"),
        ({"gap_mm": 4.0, "slices": 70}, "distance of slices"),
    ],
)
def test_requirement_rules_a_series_out(manifest: Manifest, changes: dict[str, Any], name: str) -> None:
    conditions = check_requirements(manifest.inputs[0].requires, series(**changes))
    assert name in [condition.name for condition in conditions if not condition.met]


def test_absent_body_part_does_not_rule_out(manifest: Manifest) -> None:
    assert all_met(check_requirements(manifest.inputs[0].requires, series(BodyPartExamined=None)))


def test_no_series_that_fits_says_what_the_nearest_lacked(manifest: Manifest) -> None:
    study = trace_of(manifest, series("1.1", Modality="CT", slices=10), series("1.2", slices=20), modality=["MR"])
    (model,) = study.routes[0].models
    assert model.code == "input-missing"
    assert "nearest 1.2" in model.message
    assert "slices: wanted at least 60, found 20" in model.message


def test_route_that_no_series_matches_wants_nothing(manifest: Manifest) -> None:
    study = trace_of(manifest, series(), modality=["CT"])
    assert not study.routes[0].wants
    assert study.routes[0].models == ()


def test_model_that_is_not_installed_is_named() -> None:
    study = decide([series()], [route()], {})
    assert study.routes[0].models[0].code == "model-unavailable"


def test_thinnest_then_most_slices_then_latest_is_chosen(manifest: Manifest) -> None:
    thick = series("1.1", gap_mm=2.0)
    few = series("1.2", slices=150)
    early = series("1.3", received_at=NOW - timedelta(minutes=1))
    best = series("1.4")
    for order in ([thick, few, early, best], [best, early, few, thick]):
        (choice,) = choose_inputs(manifest, order)
        assert choice.chosen is not None
        assert choice.chosen.series_instance_uid == "1.4"
    assert [verdict.series_instance_uid for verdict in choice.verdicts] == ["1.4", "1.3", "1.2", "1.1"]


def test_tie_is_broken_by_uid(manifest: Manifest) -> None:
    for order in ([series("1.5"), series("1.6")], [series("1.6"), series("1.5")]):
        (choice,) = choose_inputs(manifest, order)
        assert choice.chosen is not None
        assert choice.chosen.series_instance_uid == "1.5"


def test_input_digest_names_content_not_order_of_arrival(manifest: Manifest) -> None:
    forward, backward = series(), series()
    backward = StoredSeries(**{**vars(backward), "instances": backward.instances[::-1]})
    fewer = series(slices=159)
    digests = [input_digest(choose_inputs(manifest, [each])) for each in (forward, backward, fewer)]
    assert digests[0] == digests[1] != digests[2]


def test_input_digest_stays_when_the_digests_of_an_earlier_version_are_marked(manifest: Manifest) -> None:
    """Else an upgraded node would analyse again, and deliver again, whatever something comes to."""
    before = series()
    marked = tuple(replace(each, digest=f"sha256:{each.digest}") for each in before.instances)
    after = replace(before, instances=marked)
    digests = [input_digest(choose_inputs(manifest, [each])) for each in (before, after)]
    assert digests[0] == digests[1]


def test_stack_of_a_sagittal_series() -> None:
    stack = stack_of(series(orientation=(0, 1, 0, 0, 0, -1), slices=1))
    assert (stack.plane, stack.slices, stack.slice_spacing_mm) == ("sagittal", 1, None)


def test_stack_without_geometry_knows_nothing() -> None:
    bare = series(slices=2)
    bare = StoredSeries(
        **{**vars(bare), "instances": tuple(StoredInstance(**{**vars(i), "geometry": None}) for i in bare.instances)}
    )
    assert stack_of(bare).slice_spacing_mm is None
