"""Series that hold several volumes, mixed studies, and the order of what fits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.infer.manifest import Manifest, load_manifest
from node.select.candidates import split_series
from node.select.choose import choose_inputs, input_digest
from node.store.catalogue import StoredSeries
from tests.node.select.examples import series


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The bundled model, open to any CT or MR of ten slices."""
    bundled = load_manifest(Path(__file__).parents[3] / "config" / "models" / "brain-ventricles")
    requires = type(bundled.inputs[0].requires)(modality=("CT", "MR"), minimum_slices=10)
    return bundled.model_copy(update={"inputs": (bundled.inputs[0].model_copy(update={"requires": requires}),)})


def mixed(*groups: dict[str, Any], slices: int = 20) -> StoredSeries:
    """One series of several stacks at the same places, each with its own attributes."""
    whole = series("1.9", slices=slices * len(groups))
    members = [
        replace(
            one,
            geometry={**(one.geometry or {}), "ImagePositionPatient": [0.0, 0.0, float(number % slices)], **changes},
        )
        for changes, start in zip(groups, range(0, len(whole.instances), slices), strict=True)
        for number, one in enumerate(whole.instances[start : start + slices])
    ]
    return replace(whole, instances=tuple(members))


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([{"EchoTime": 2.5}, {"EchoTime": 5.0}], ["Echo Time 2.5", "Echo Time 5"]),
        (
            [{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, {"TemporalPositionIdentifier": 3}],
            ["Temporal Position 1", "Temporal Position 2", "Temporal Position 3"],
        ),
        ([{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}], ["Acquisition Number 1", "Acquisition Number 2"]),
        (
            [{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}],
            ["Image Type ORIGINAL\\PRIMARY\\M", "Image Type ORIGINAL\\PRIMARY\\P"],
        ),
        ([{}, {"Rows": 512, "Columns": 512}], ["matrix 256\\256", "matrix 512\\512"]),
        (
            [{}, {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]}],
            ["orientation 0", "orientation 1"],
        ),
    ],
)
def test_series_of_several_volumes_is_split_by_what_differs(groups: list[dict[str, Any]], names: list[str]) -> None:
    parts = split_series(mixed(*groups))
    assert [part.part for part in parts] == names
    assert all(len(part.series.instances) == 20 for part in parts)


def test_what_differs_without_repeated_places_does_not_split() -> None:
    whole = series(slices=4)
    members = [
        replace(one, geometry={**(one.geometry or {}), "EchoTime": float(n)}) for n, one in enumerate(whole.instances)
    ]
    (candidate,) = split_series(replace(whole, instances=tuple(members)))
    assert candidate.part == ""


def test_a_stray_image_does_not_split() -> None:
    """The geometry checks refuse such a series as a whole."""
    whole = series(slices=20)
    stray = replace(
        whole.instances[3],
        geometry={**(whole.instances[3].geometry or {}), "ImageOrientationPatient": [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]},
    )
    members = (*whole.instances[:3], stray, *whole.instances[4:])
    (candidate,) = split_series(replace(whole, instances=members))
    assert candidate.series.instances == members


def test_jitter_of_orientation_does_not_split() -> None:
    whole = series(slices=4)
    members = [
        replace(
            one, geometry={**(one.geometry or {}), "ImageOrientationPatient": [1.0, 0.0049 + n / 10000, 0, 0, 1.0, 0]}
        )
        for n, one in enumerate(whole.instances)
    ]
    assert len(split_series(replace(whole, instances=tuple(members)))) == 1


def test_one_echo_is_chosen_and_the_digest_names_only_its_images(manifest: Manifest) -> None:
    echoes = mixed({"EchoTime": 5.0}, {"EchoTime": 2.5})
    (choice,) = choose_inputs(manifest, [echoes])
    assert choice.chosen is not None
    assert len(choice.chosen.instances) == 20
    assert {(one.geometry or {})["EchoTime"] for one in choice.chosen.instances} == {2.5}
    assert [(verdict.part, verdict.is_chosen) for verdict in choice.verdicts] == [
        ("Echo Time 2.5", True),
        ("Echo Time 5", False),
    ]
    assert input_digest([choice]) != input_digest(choose_inputs(manifest, [mixed({"EchoTime": 5.0})]))


CT = {
    "Modality": "CT",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SeriesDescription": "Thorax",
    "MRAcquisitionType": None,
}
LOCALIZER = series("1.1", slices=12, gap_mm=0.1, **CT | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
SCOUT = series("1.2", slices=12, gap_mm=0.1, **CT | {"SeriesDescription": "Scout"})
MPR = series("1.3", gap_mm=0.2, **CT | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]})
SCREENSHOT = series("1.4", gap_mm=0.1, **CT | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"})
OWN = series("1.5", gap_mm=0.1, **CT | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"})
DERIVED = series("1.6", gap_mm=0.5, **CT | {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]})
THICK = series("1.7", slices=60, gap_mm=5.0, **CT)
LUNG = series("1.8", **CT | {"ConvolutionKernel": ["B70f"]})
CONTRAST = series("1.9", **CT | {"ConvolutionKernel": ["B30f"], "ContrastBolusAgent": "Iomeprol"})
SOFT = series("2.0", **CT | {"ConvolutionKernel": ["B30f"]})


@pytest.mark.parametrize("last", [0, 3, 5, 9])
def test_mixed_ct_gives_the_thin_soft_original(manifest: Manifest, last: int) -> None:
    study = [LOCALIZER, SCOUT, MPR, SCREENSHOT, OWN, DERIVED, THICK, LUNG, CONTRAST, SOFT]
    (choice,) = choose_inputs(manifest, [*study[last:], *study[:last]])
    eligible = [verdict.series_instance_uid for verdict in choice.verdicts if verdict.eligible]
    assert eligible == ["2.0", "1.9", "1.8", "1.7", "1.6"]
    assert [verdict.series_instance_uid for verdict in choice.verdicts if verdict.is_chosen] == ["2.0"]
    assert choice.verdicts[0].rank == "1.00 mm apart, 1.00 mm thick, kernel B30f, 0.90 mm pixels, 160 slices"


@pytest.mark.parametrize(
    ("never", "name"),
    [
        (LOCALIZER, "Image Type"),
        (SCOUT, "Series Description"),
        (MPR, "Image Type"),
        (SCREENSHOT, "SOP Class"),
        (OWN, "SOP Class"),
    ],
)
def test_what_no_model_is_given_says_why(manifest: Manifest, never: StoredSeries, name: str) -> None:
    (choice,) = choose_inputs(manifest, [never])
    assert choice.chosen is None
    assert name in [condition.name for condition in choice.verdicts[0].conditions if not condition.met]


def test_two_inputs_never_get_the_same_images(manifest: Manifest) -> None:
    """The input that only one series fits chooses first, whatever the order of the manifest."""
    any_series = manifest.inputs[0].model_copy(update={"name": "any"})
    only_ct = any_series.model_copy(
        update={"name": "ct", "requires": any_series.requires.model_copy(update={"modality": ("CT",)})}
    )
    two = manifest.model_copy(update={"inputs": (any_series, only_ct)})
    choices = choose_inputs(two, [series("3.1", gap_mm=2.0), SOFT])
    assert {choice.input_name: choice.chosen.series_instance_uid for choice in choices if choice.chosen} == {
        "any": "3.1",
        "ct": "2.0",
    }
    lacking = choose_inputs(two, [SOFT])
    assert [choice.chosen is None for choice in lacking] == [False, True]
