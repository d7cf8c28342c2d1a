"""The evidence, weighed: each rule of completeness on its own."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from node.select.completeness import (
    ArchiveCount,
    PastStudy,
    Patience,
    SeriesEvidence,
    SettledBy,
    Shape,
    StudyEvidence,
    Trust,
    assess,
    learned_seconds,
    longest_gap_after,
    missing_by_count,
    trust_of,
)
from node.select.stack import shape_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATIENCE = Patience(quiet_seconds=30, released_quiet_seconds=2, limit_seconds=300)
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def series(
    received: int = 100, *, released: float | None = 0.0, shape: Shape = Shape.WHOLE, last: float = 0.0
) -> SeriesEvidence:
    return SeriesEvidence(received, later(last), None if released is None else later(released), shape)


def study(*members: SeriesEvidence, count: ArchiveCount | None = None, **changes: object) -> StudyEvidence:
    receiving = {str(number): each for number, each in enumerate(members or (series(),))}
    return replace(StudyEvidence(receiving, {}, count=count), **changes)


def count(number: int, trust: Trust = Trust.AHEAD, asked: float = 1.0, **others: int) -> ArchiveCount:
    return ArchiveCount(later(asked), {"0": number, **others}, trust)


@pytest.mark.parametrize(
    ("evidence", "settled_by", "seconds"),
    [
        (study(series()), SettledBy.RELEASED_WHOLE, 2),
        (study(series(released=5)), SettledBy.RELEASED_WHOLE, 7),
        (study(series(shape=Shape.UNKNOWN)), SettledBy.RELEASED, 30),
        (study(series(shape=Shape.UNKNOWN), series()), SettledBy.RELEASED_WHOLE, 2),
        (study(series(shape=Shape.HOLED), series()), SettledBy.LIMIT_HOLE, 300),
        (study(series(released=None)), SettledBy.LIMIT_OPEN, 300),
        (study(series(), series(released=None)), SettledBy.LIMIT_OPEN, 300),
        (study(series(), series(released=9, last=8)), SettledBy.RELEASED_WHOLE, 11),
        (study(count=count(100)), SettledBy.COUNT, 0),
        (study(series(released=None), count=count(100)), SettledBy.COUNT, 2),
        (study(count=count(101)), SettledBy.LIMIT_COUNT, 300),
        (study(count=count(99)), SettledBy.COUNT, 0),
        (study(count=count(100, **{"9": 1})), SettledBy.LIMIT_COUNT, 300),
        (study(count=count(100, asked=-1)), SettledBy.RELEASED_WHOLE, 2),
        (study(count=count(100, Trust.EQUAL)), SettledBy.EQUAL_COUNT, 2),
        (study(series(shape=Shape.HOLED), count=count(100)), SettledBy.COUNT, 0),
        (study(series(1, shape=Shape.UNKNOWN), count=count(1, Trust.EQUAL)), SettledBy.EQUAL_COUNT, 30),
        (
            study(series(released=None), count=count(100, Trust.GROWING), arrival_seconds=10.0),
            SettledBy.EQUAL_COUNT,
            20,
        ),
        (study(count=ArchiveCount(later(1), {}, Trust.EQUAL)), SettledBy.RELEASED_WHOLE, 2),
        (study(resumed_seconds=10.0), SettledBy.RELEASED_WHOLE, 20),
        (study(resumed_seconds=290.0), SettledBy.RELEASED_WHOLE, 300),
        (study(past=[PastStudy(90.0, "released-whole")]), SettledBy.RELEASED_WHOLE, 135),
        (study(series(released=None), past=[PastStudy(0, "limit-not-released")] * 2), SettledBy.LIMIT_OPEN, 300),
        (study(series(released=None), past=[PastStudy(0, "limit-not-released")] * 3), SettledBy.NEVER_RELEASES, 30),
    ],
)
def test_evidence_says_when_and_why(evidence: StudyEvidence, settled_by: SettledBy, seconds: float) -> None:
    verdict = assess(evidence, PATIENCE)
    assert (verdict.settled_by, verdict.settle_at) == (settled_by, later(seconds))


def test_rare_gap_of_a_sender_is_forgiven_and_a_usual_one_is_not() -> None:
    quick = [PastStudy(0.0, "released-whole")] * 19
    assert learned_seconds(study(past=[*quick, PastStudy(90.0, "released-whole")])) == 0
    assert learned_seconds(study(past=[PastStudy(90.0, "released-whole")] * 3 + quick[:17])) == 135


def test_a_series_that_has_not_begun_counts_only_for_whole_studies() -> None:
    whole = count(100, **{"9": 5})
    assert missing_by_count(study(count=whole)) == 5
    assert missing_by_count(study(count=replace(whole, whole_study=False))) == 0


def test_images_of_settled_series_are_counted_too() -> None:
    assert missing_by_count(study(count=count(100, **{"9": 5}), settled={"9": 5})) == 0


@pytest.mark.parametrize(
    ("previous", "counts", "trust"),
    [
        (None, {"0": 101}, Trust.AHEAD),
        (None, {"0": 100}, Trust.EQUAL),
        (count(101), {"0": 101}, Trust.AHEAD),
        (count(101), {"0": 102}, Trust.GROWING),
        (count(100, Trust.EQUAL), {"0": 101}, Trust.GROWING),
        (count(100, Trust.GROWING), {"0": 100}, Trust.GROWING),
        (count(103), {"0": 100}, Trust.AHEAD),
    ],
)
def test_trust_in_a_count(previous: ArchiveCount | None, counts: dict[str, int], trust: Trust) -> None:
    assert trust_of(previous, counts, {"0": 100}) is trust


def test_gaps_are_measured_from_each_release_to_the_next_image() -> None:
    releases = [later(10), later(20), later(50)]
    arrivals = [later(9), later(12), later(45)]
    assert longest_gap_after(releases, arrivals, 300) == 25
    assert longest_gap_after(releases, arrivals, 20) == 2
    assert longest_gap_after([], arrivals, 300) == 0


def places(*positions: float, orientation: list[float] = AXIAL) -> list[dict[str, list[float]]]:
    return [{"ImageOrientationPatient": orientation, "ImagePositionPatient": [0.0, 0.0, at]} for at in positions]


@pytest.mark.parametrize(
    ("geometries", "shape"),
    [
        ([], Shape.UNKNOWN),
        ([None, None, None], Shape.UNKNOWN),
        (places(0, 1), Shape.UNKNOWN),
        (places(0, 1, 2), Shape.WHOLE),
        (places(2, 0, 1), Shape.WHOLE),
        (places(0, 1, 2, 4), Shape.HOLED),
        (places(0, 1, 2.2, 3.1), Shape.UNKNOWN),
        (places(0, 1, 2, 0, 1, 2), Shape.WHOLE),
        (places(0, 1, 2, 0, 1), Shape.HOLED),
        (places(0, 1, 2) + places(5, orientation=[1.0, 0.0, 0.0, 0.0, 0.0, -1.0]), Shape.WHOLE),
        (places(0, 1, 2, orientation=[0.0] * 6), Shape.UNKNOWN),
    ],
)
def test_shape_of_a_series(geometries: list, shape: Shape) -> None:
    assert shape_of(geometries) is shape
