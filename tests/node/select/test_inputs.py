"""Models with several inputs: T1 with FLAIR, four mammography views, a study with an earlier one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.infer.manifest import Manifest, load_manifest
from node.infer.requirements import Requirements
from node.route_settings import Route
from node.select.assign import assign
from node.select.candidates import Priors, PriorStudy, split_series
from node.select.choose import choose_inputs, input_digest
from node.select.decide import comparing_models, decide, of_the_study
from node.select.priority import lane_of
from node.store.catalogue import StoredSeries
from node.store.tables import Priority
from tests.node.select.examples import series

MG = "1.2.840.10008.5.1.4.1.1.1.2"
VIEWS = (("L", "CC"), ("R", "CC"), ("L", "MLO"), ("R", "MLO"))


@pytest.fixture(scope="module")
def bundled() -> Manifest:
    return load_manifest(Path(__file__).parents[3] / "config" / "models" / "brain-ventricles")


def model(bundled: Manifest, **inputs: dict[str, Any]) -> Manifest:
    """A model with these inputs, in this order."""
    first = bundled.inputs[0]
    made = tuple(
        first.model_copy(update={"name": name, "requires": Requirements.model_validate(requires)})
        for name, requires in inputs.items()
    )
    return bundled.model_copy(update={"inputs": made})


def chosen(manifest: Manifest, *study: StoredSeries, priors: Priors | None = None) -> dict[str, str | None]:
    """For each input the series, or the image of a series that was split."""
    found = choose_inputs(manifest, study, priors or Priors())
    return {
        each.input_name: next(
            (verdict.part or verdict.series_instance_uid for verdict in each.verdicts if verdict.is_chosen), None
        )
        for each in found
    }


T1_FLAIR = {
    "t1": {"modality": ["MR"], "series_description": "t1"},
    "flair": {"modality": ["MR"], "minimum_inversion_time_ms": 1500, "same_frame_of_reference": True},
}


def framed(uid: str, frame: str | None, **header: Any) -> StoredSeries:
    """A series in a Frame of Reference, as each of its images says."""
    made = series(uid, **header)
    members = tuple(
        replace(one, geometry={**(one.geometry or {}), **({"FrameOfReferenceUID": frame} if frame else {})})
        for one in made.instances
    )
    return replace(made, instances=members)


def test_t1_and_flair_are_taken_from_one_frame_of_reference(bundled: Manifest) -> None:
    manifest = model(bundled, **T1_FLAIR)
    moved = framed("1.1", "9.1", SeriesDescription="t1 fine", gap_mm=0.8)
    t1 = framed("1.2", "9.2", SeriesDescription="t1")
    flair = framed("1.3", "9.2", SeriesDescription="flair", InversionTime=1800.0)
    for study in ((moved, t1, flair), (flair, t1, moved)):
        assert chosen(manifest, *study) == {"t1": "1.2", "flair": "1.3"}


@pytest.mark.parametrize("frame", ["9.3", None])
def test_without_a_common_frame_the_input_that_lacks_it_is_named(bundled: Manifest, frame: str | None) -> None:
    t1 = framed("1.2", "9.2", SeriesDescription="t1")
    flair = framed("1.3", frame, SeriesDescription="flair", InversionTime=1800.0)
    manifest = model(bundled, **T1_FLAIR)
    assert chosen(manifest, t1, flair) == {"t1": "1.2", "flair": None}
    (route,) = decide([t1, flair], [Route(name="r", models=("m",))], {"m": manifest}).routes
    assert route.models[0].code == "input-missing"
    assert f"Frame of Reference: wanted 9.2, one for t1 and what is laid over it, found {frame or 'absent'}" in (
        route.models[0].message
    )


def test_an_optional_input_may_lack(bundled: Manifest) -> None:
    manifest = model(bundled, t1=T1_FLAIR["t1"], flair={**T1_FLAIR["flair"], "optional": True})
    t1 = framed("1.2", "9.2", SeriesDescription="t1")
    flair = framed("1.3", "9.2", SeriesDescription="flair", InversionTime=1800.0)
    (route,) = decide([t1], [Route(name="r", models=("m",))], {"m": manifest}).routes
    assert route.models[0].wanted_and_possible
    assert route.models[0].message == "160 images for t1, nothing for flair, which is optional"
    assert chosen(manifest, t1, flair)["flair"] == "1.3"


def test_an_optional_input_takes_nothing_from_a_required_one(bundled: Manifest) -> None:
    manifest = model(bundled, extra={"modality": ["MR"], "optional": True}, main={"modality": ["MR"]})
    assert chosen(manifest, series("1.1")) == {"extra": None, "main": "1.1"}


def mammogram(uid: str, *views: tuple[str, str], **header: Any) -> StoredSeries:
    """A series of mammograms, one image for each laterality and view."""
    made = series(uid, slices=len(views), Modality="MG", SOPClassUID=MG, **header)
    members = []
    for number, (one, (laterality, view)) in enumerate(zip(made.instances, views, strict=True)):
        geometry = {"Rows": 3000, "Columns": 2400, "PixelSpacing": [0.1, 0.1], "InstanceNumber": number + 1}
        members.append(replace(one, geometry={**geometry, "ImageLaterality": laterality, "ViewPosition": view}))
    return replace(made, instances=tuple(members))


def four_views(bundled: Manifest, **further: Any) -> Manifest:
    return model(
        bundled,
        **{
            f"{laterality}-{view}".lower(): {
                "modality": ["MG"],
                "minimum_slices": 1,
                "image_laterality": [laterality],
                "view_position": [view],
                **further,
            }
            for laterality, view in VIEWS
        },
    )


def test_four_views_are_found_in_one_series_and_in_four(bundled: Manifest) -> None:
    manifest = four_views(bundled)
    assert chosen(manifest, mammogram("1.1", *VIEWS)) == {
        "l-cc": "image 1 (L CC)",
        "r-cc": "image 2 (R CC)",
        "l-mlo": "image 3 (L MLO)",
        "r-mlo": "image 4 (R MLO)",
    }
    apart = [mammogram(f"1.{number}", view) for number, view in enumerate(VIEWS, 1)]
    assert chosen(manifest, *apart) == {"l-cc": "1.1", "r-cc": "1.2", "l-mlo": "1.3", "r-mlo": "1.4"}


def test_a_view_that_lacks_is_named(bundled: Manifest) -> None:
    study = [mammogram("1.1", *VIEWS[:3])]
    (route,) = decide(study, [Route(name="r", models=("m",))], {"m": four_views(bundled)}).routes
    assert route.models[0].code == "input-missing"
    assert route.models[0].message.startswith("none of 3 candidates fits r-mlo (nearest 1.1, image ")


def test_the_whole_breast_is_taken_before_a_magnified_part_and_the_repeated_exposure_before_the_first(
    bundled: Manifest,
) -> None:
    study = mammogram("1.1", *VIEWS, ("L", "CC"), ("L", "CC"))
    part = replace(study.instances[5], geometry={**(study.instances[5].geometry or {}), "ViewModifiers": ["spot"]})
    study = replace(study, instances=(*study.instances[:5], part))
    assert chosen(four_views(bundled), study)["l-cc"] == "image 5 (L CC)"


def test_images_for_processing_are_not_taken_where_those_for_presentation_are_wanted(bundled: Manifest) -> None:
    raw = mammogram("1.1", *VIEWS, PresentationIntentType="FOR PROCESSING")
    shown = mammogram("1.2", *VIEWS, PresentationIntentType="FOR PRESENTATION")
    manifest = four_views(bundled, presentation_intent=["FOR PRESENTATION"])
    for choice in choose_inputs(manifest, [raw, shown]):
        assert choice.chosen is not None
        assert choice.chosen.series_instance_uid == "1.2"


def test_a_single_laterality_of_the_series_counts_where_the_image_has_none(bundled: Manifest) -> None:
    made = mammogram("1.1", ("L", "CC"), Laterality="L")
    geometry = dict(made.instances[0].geometry or {})
    del geometry["ImageLaterality"]
    made = replace(made, instances=(replace(made.instances[0], geometry=geometry),))
    assert chosen(four_views(bundled), made)["l-cc"] == "1.1"


def test_loops_of_an_ultrasound_stand_alone() -> None:
    assert len(split_series(series(slices=5, Modality="US"))) == 5


COMPARE = {
    "now": {"modality": ["MR"], "series_description": "t1"},
    "before": {"modality": ["MR"], "series_description": "t1", "timepoint": "prior"},
}


def prior(study: str, when: str, *found: StoredSeries) -> PriorStudy:
    return PriorStudy(study, when, tuple(replace(each, study_instance_uid=study) for each in found))


def test_the_nearest_earlier_study_that_fits_is_taken(bundled: Manifest) -> None:
    manifest = model(bundled, **COMPARE)
    priors = Priors(
        (
            prior("3", "20250301000000", series("3.1", SeriesDescription="t2")),
            prior("4", "20240301000000", series("4.1", SeriesDescription="t1")),
            prior("5", "20230301000000", series("5.1", SeriesDescription="t1")),
        )
    )
    now = series("1.1", SeriesDescription="t1")
    assert chosen(manifest, now, priors=priors) == {"now": "1.1", "before": "4.1"}
    choice = choose_inputs(manifest, [now], priors)[1]
    assert [(each.series_instance_uid, each.eligible, each.instead) for each in choice.verdicts] == [
        ("3.1", False, ""),
        ("4.1", True, ""),
        ("5.1", True, "a nearer study is taken"),
    ]


def test_several_inputs_of_earlier_images_are_of_one_study(bundled: Manifest) -> None:
    manifest = model(
        bundled,
        now=COMPARE["now"],
        **{
            f"before-{kind}": {"modality": ["MR"], "series_description": kind, "timepoint": "prior"}
            for kind in ("t1", "t2")
        },
    )
    t1, t2 = {"SeriesDescription": "t1"}, {"SeriesDescription": "t2"}
    priors = Priors(
        (
            prior("3", "20250301000000", series("3.1", **t1)),
            prior("4", "20240301000000", series("4.1", **t1), series("4.2", **t2)),
        )
    )
    found = chosen(manifest, series("1.1", **t1), priors=priors)
    assert found == {"now": "1.1", "before-t1": "4.1", "before-t2": "4.2"}


@pytest.mark.parametrize("optional", [False, True])
def test_a_study_without_an_earlier_one_says_why(bundled: Manifest, optional: bool) -> None:
    manifest = model(bundled, now=COMPARE["now"], before={**COMPARE["before"], "optional": optional})
    routes = [Route(name="r", models=("m",))]
    assert comparing_models(routes, {"m": manifest}) == {"m"}
    assert comparing_models(routes, {"m": bundled}) == frozenset()
    found = decide([series(SeriesDescription="t1")], routes, {"m": manifest}, Priors(none_because="no Patient ID"))
    (answer,) = found.routes[0].models
    assert answer.code == ("chosen" if optional else "prior-missing")
    assert optional or answer.message == "nothing for before: no Patient ID"


def test_an_urgent_earlier_study_does_not_make_this_one_urgent(bundled: Manifest) -> None:
    manifest = model(bundled, **COMPARE)
    urgent = series("3.1", SeriesDescription="t1", RequestedProcedurePriority="STAT")
    found = decide(
        [series(SeriesDescription="t1")],
        [Route(name="r", models=("m",))],
        {"m": manifest},
        Priors((prior("3", "20250301000000", urgent),)),
    )
    assert lane_of(found.routes[0].route, of_the_study(found.routes[0].models[0])) is Priority.ROUTINE


def test_the_digest_names_the_earlier_images_too(bundled: Manifest) -> None:
    manifest = model(bundled, **COMPARE)
    now = series("1.1", SeriesDescription="t1")
    priors = [Priors((prior("3", "20250301000000", series(uid, SeriesDescription="t1")),)) for uid in ("3.1", "3.2")]
    digests = {input_digest(choose_inputs(manifest, [now], each)) for each in priors}
    assert len(digests) == 2


def test_one_phase_of_a_dynamic_series_and_one_b_value(bundled: Manifest) -> None:
    made = series("1.1", slices=40)
    members = []
    for number, one in enumerate(made.instances):
        place = {"ImagePositionPatient": [0.0, 0.0, float(number % 20)], "DiffusionBValue": 1000.0 * (number // 20)}
        members.append(replace(one, geometry={**(one.geometry or {}), **place}))
    made = replace(made, instances=tuple(members))
    manifest = model(
        bundled,
        b0={"modality": ["MR"], "maximum_b_value": 50},
        b1000={"modality": ["MR"], "minimum_b_value": 900, "maximum_b_value": 1100},
    )
    assert chosen(manifest, made) == {"b0": "b-value 0", "b1000": "b-value 1000"}


@pytest.mark.parametrize(
    ("required", "optional", "expected"),
    [
        ({"a": [0, 1], "b": [0]}, {}, {"a": 1, "b": 0}),
        ({"a": [0, 1], "b": [0, 1]}, {}, {"a": 0, "b": 1}),
        ({"a": [0, 1, 2], "b": [0, 1], "c": [0]}, {}, {"a": 2, "b": 1, "c": 0}),
        ({"a": [0], "b": [0]}, {}, {"a": 0}),
        ({"a": [0]}, {"b": [0, 1]}, {"a": 0, "b": 1}),
        ({"a": []}, {"b": [0]}, {"b": 0}),
    ],
)
def test_assigning(required: dict[str, list[int]], optional: dict[str, list[int]], expected: dict[str, int]) -> None:
    assert assign(required, optional) == expected
