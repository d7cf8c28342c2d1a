"""Every kind of condition that a route can state, and what they say about routes as a whole."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from node.private_attributes import with_private
from node.receive.header import read_header
from node.route_settings import Match, Route
from node.select.overlap import route_warnings, unused_tables
from node.select.priority import lane_of
from node.select.rules import age_years, all_met, check_match
from node.store.tables import Priority
from tests.node.select.examples import series
from tests.phantoms import make_series, write_series

NIGHT = datetime(2026, 1, 2, 23, 30, tzinfo=UTC)
PRIVATE = "SIEMENS MR HEADER (0019,0C)"


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({"minimum_age_years": 18}, True),
        ({"minimum_age_years": 60}, False),
        ({"maximum_age_years": 50.5}, True),
        ({"maximum_age_years": 17}, False),
        ({"patient_sex": ["f"]}, True),
        ({"maximum_instances": 160}, True),
        ({"maximum_instances": 159}, False),
        ({"maximum_slice_spacing_mm": 1.0}, True),
        ({"minimum_slice_spacing_mm": 2}, False),
        ({"maximum_slice_thickness_mm": 0.5}, False),
        ({"manufacturer_model_name": "skyra"}, True),
        ({"time_of_day": "22:00-06:00"}, True),
        ({"time_of_day": "06:00-22:00"}, False),
        ({"time_of_day": "00:00-01:00", "time_zone": "Europe/Vienna"}, True),
        ({"any": [{"modality": ["CT"]}, {"modality": ["MR"]}]}, True),
        ({"any": [{"modality": ["CT"]}, {"modality": ["MG"]}]}, False),
        ({"all": [{"modality": ["MR"]}, {"manufacturer": "siemens"}]}, True),
        ({"all": [{"modality": ["MR"]}, {"manufacturer": "ge"}]}, False),
        ({"not": [{"modality": ["CT"]}]}, True),
        ({"not": [{"series_description": "mprage"}]}, False),
        ({"not": [{"modality": ["MR"], "manufacturer": "ge"}]}, True),
        ({"any": [{"not": [{"any": [{"modality": ["MR"]}]}]}]}, False),
        ({"private": {PRIVATE: "^1000$"}}, True),
        ({"private": {PRIVATE: "^50$"}}, False),
        ({"private": {"OTHER (0019,0C)": "."}}, False),
    ],
)
def test_condition_holds_or_not(match: dict[str, Any], matches: bool) -> None:
    found = series(
        PatientAge="050Y",
        PatientSex="F",
        ManufacturerModelName="Skyra",
        received_at=NIGHT,
        Private={PRIVATE: ["1000"]},
    )
    conditions = check_match(Match.model_validate(match), found)
    assert all_met(conditions) is matches
    assert all(condition.wanted and condition.found for condition in conditions)


def test_absent_age_meets_no_bound() -> None:
    assert not all_met(check_match(Match(maximum_age_years=100), series()))


def test_nested_conditions_say_what_was_wanted_and_found() -> None:
    (condition,) = check_match(
        Match.model_validate({"any": [{"modality": ["CT"]}, {"minimum_instances": 200}]}), series()
    )
    assert condition.wanted == "(Modality CT) or (instances at least 200)"
    assert condition.found == "Modality MR, instances 160"


@pytest.mark.parametrize(
    ("age", "years"), [("050Y", 50), ("006M", 0.5), ("003W", 0.0575), ("010D", 0.0274), ("50", None), (None, None)]
)
def test_ages(age: str | None, years: float | None) -> None:
    assert age_years(age) == (None if years is None else pytest.approx(years, rel=0.01))


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"time_of_day": "25:00-06:00"}, "time_of_day"),
        ({"time_zone": "Vienna"}, "Europe/Vienna"),
        ({"private": {"0019,100C": "x"}}, "CREATOR"),
        ({"private": {PRIVATE: "("}}, "regular expression"),
        ({"any": [{"modalty": ["CT"]}]}, "modalty"),
        ({"series_description": "("}, "regular expression"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(match: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        Match.model_validate(match)


def test_private_attributes_are_read_from_the_first_image_of_a_series(tmp_path: Path) -> None:
    image = make_series(shape=(2, 8, 8))[0]
    image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 1000)
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    stored = series(slices=1)
    stored = type(stored)(
        **{
            **vars(stored),
            "instances": (type(stored.instances[0])(**{**vars(stored.instances[0]), "path": "image.dcm"}),),
        }
    )
    route = Route(
        name="r", models=("m",), match=Match(any=(Match(private={PRIVATE: "1000", "NOBODY (0019,0C)": "x"}),))
    )
    (found,) = with_private([stored], [route], tmp_path)
    assert found.header["Private"] == {PRIVATE: ["1000"]}
    assert with_private([stored], [Route(name="r", models=("m",))], tmp_path) == [stored]
    (unreadable,) = with_private([stored], [route], tmp_path / "elsewhere")
    assert unreadable.header["Private"] == {}


@pytest.mark.parametrize(
    ("route", "ordered", "lane"),
    [
        ("routine", None, Priority.ROUTINE),
        ("routine", "STAT", Priority.STAT),
        ("routine", "HIGH", Priority.STAT),
        ("routine", "LOW", Priority.ROUTINE),
        ("low", "MEDIUM", Priority.ROUTINE),
        ("stat", "LOW", Priority.STAT),
        ("routine", "soon", Priority.ROUTINE),
    ],
)
def test_lane_is_the_higher_of_route_and_order(route: str, ordered: str | None, lane: Priority) -> None:
    found = series(RequestedProcedurePriority=ordered)
    assert lane_of(Route(name="r", models=("m",), priority=route), [found]) is lane


def test_priority_of_the_order_is_read_from_the_images(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, shape=(1, 8, 8), RequestedProcedurePriority="STAT")
    assert read_header(path).series_header["RequestedProcedurePriority"] == "STAT"


def routes(*matches: dict[str, Any], models: tuple[str, ...] = ("m",)) -> list[Route]:
    return [
        Route(name=f"r{number}", models=models, match=Match.model_validate(match))
        for number, match in enumerate(matches)
    ]


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"minimum_age_years": 60, "maximum_age_years": 18}, "minimum_age_years is 60 and maximum_age_years is 18"),
        ({"minimum_instances": 10, "maximum_instances": 5}, "minimum_instances"),
        ({"modality": ["CT"], "all": [{"modality": ["MR"]}]}, "modality cannot be CT and MR"),
        ({"modality": ["CT"], "any": [{"modality": ["MR"]}, {"modality": ["MG"]}]}, "none of its `any` can hold"),
        ({"modality": ["CT"], "not": [{"modality": ["CT", "MR"]}]}, "`not` excludes everything"),
        ({"calling_ae_title": ["CT9"]}, "may associate"),
        ({"called_ae_title": ["ELSE"]}, "only OVERREAD may be called"),
    ],
)
def test_unreachable_route_is_found(match: dict[str, Any], words: str) -> None:
    (warning,) = route_warnings(routes(match), ["CT1"], "OVERREAD")
    assert warning.startswith("routes.r0: unreachable: ")
    assert words in warning


def test_reachable_routes_are_not_warned_of() -> None:
    fine = routes(
        {"modality": ["CT"], "not": [{"series_description": "lung"}]},
        {"modality": ["MR"], "calling_ae_title": ["ct1"], "called_ae_title": ["overread"]},
    )
    assert route_warnings(fine, ["CT1"], "OVERREAD") == []


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({"modality": ["MR"]}, {"modality": ["MR", "CT"]}, True),
        ({"modality": ["MR"]}, {"modality": ["CT"]}, False),
        ({"modality": ["MR"]}, {"calling_ae_title": ["A"]}, True),
        ({"maximum_age_years": 17}, {"minimum_age_years": 18}, False),
        ({"series_description": "lung"}, {"series_description": "liver"}, True),
    ],
)
def test_overlap_is_found(one: dict[str, Any], other: dict[str, Any], overlap: bool) -> None:
    warnings = route_warnings(routes(one, other))
    assert [("overlap" in warning) for warning in warnings] == ([True] if overlap else [])


def test_destinations_that_no_route_names_are_told() -> None:
    one = Route(name="a", models=("m",), destinations=("pacs",))
    assert unused_tables([one], ["pacs"]) == []
    assert unused_tables([one], ["pacs", "ris"]) == [
        "destinations.ris: no route sends its results there: add 'ris' to destinations of a route"
    ]
    assert unused_tables([], []) == ["no [[routes]]: nothing that is received is analysed"]
