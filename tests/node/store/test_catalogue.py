import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, func, select

from node.errors import Permanent
from node.store import tables
from node.store.catalogue import (
    Holdings,
    Quarantined,
    due_studies,
    holdings,
    instances,
    next_settle_at,
    recent_quarantine,
    record_quarantine,
    release_series,
    settle_study,
    store_instances,
    study_series,
)
from node.store.decisions import record_decisions
from node.store.tables import DecisionOutcome, SeriesState
from tests.node.store.examples import NOW, decided, later, received

OTHER_CONTENT = "f" * 64


def count_instances(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(tables.instance)) or 0


def test_stored_instances_come_back_as_they_were_given(connection: Connection) -> None:
    given_last = received(2, geometry=None, pixel_offset=None, pixel_length=3_000_000_000)
    assert store_instances(connection, [received(1), given_last], later(30)) == ["stored", "stored"]
    (series,) = study_series(connection, "1.2")
    assert (series.state, series.settle_at, series.last_received_at) == (
        SeriesState.RECEIVING,
        later(30),
        later(2),
    )
    assert (series.calling_ae_title, series.called_ae_title) == ("MODALITY", "OVERREAD")
    assert series.header == {"Modality": "MR", "Rows": 32}
    first, last = series.instances
    assert first.geometry == {"ImagePositionPatient": [0.0, 0.0, 1.0]}
    assert (last.path, last.digest, last.geometry, last.pixel_length) == (
        given_last.path,
        given_last.digest,
        None,
        3_000_000_000,
    )
    assert connection.scalar(select(tables.instance.c.geometry.is_(None)).where(
        tables.instance.c.sop_instance_uid == given_last.sop_instance_uid
    ))  # fmt: skip


def test_the_same_object_again_changes_nothing(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    settle_study(connection, "1.2", later(30))
    before = study_series(connection, "1.2")
    again = received(1, path="incoming/again", received_at=later(90))
    assert store_instances(connection, [again], later(120)) == ["duplicate"]
    assert study_series(connection, "1.2") == before
    assert next_settle_at(connection) is None


@pytest.mark.parametrize("series_instance_uid", ["1.2.1", "1.2.9"], ids=["known series", "another series"])
def test_study_is_known_to_have_been_received_last_with_its_last_object(
    connection: Connection, series_instance_uid: str
) -> None:
    store_instances(connection, [received(1, received_at=later(1), series_instance_uid="1.2.1")], later(30))
    last = received(2, received_at=later(60), series_instance_uid=series_instance_uid)
    assert store_instances(connection, [last], later(90)) == ["stored"]
    (row,) = connection.execute(select(tables.study))
    assert (row.first_received_at, row.last_received_at) == (later(1), later(60))


def test_other_content_under_a_known_uid_is_a_conflict(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    before = study_series(connection, "1.2")
    assert store_instances(connection, [received(1, digest=OTHER_CONTENT)], later(60)) == ["conflict"]
    elsewhere = received(1, digest=OTHER_CONTENT, series_instance_uid="7.8", study_instance_uid="7")
    assert store_instances(connection, [elsewhere], later(60)) == ["conflict"]
    assert study_series(connection, "1.2") == before
    assert study_series(connection, "7") == []
    assert connection.scalar(select(func.count()).select_from(tables.study)) == 1


def test_a_series_belongs_to_one_study(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    assert store_instances(connection, [received(2, study="9")], later(30)) == ["conflict"]
    assert study_series(connection, "9") == []


def test_duplicates_and_conflicts_inside_one_group(connection: Connection) -> None:
    group = [
        received(1),
        received(1, path="incoming/2"),
        received(1, digest=OTHER_CONTENT),
        received(2),
        received(3, study="9"),
        received(1, series="5.6", study="5"),
    ]
    outcomes = store_instances(connection, group, later(30))
    assert outcomes == ["stored", "duplicate", "conflict", "stored", "conflict", "stored"]
    assert count_instances(connection) == 3
    assert due_studies(connection, later(30)) == ["1.2", "5"]


def test_a_large_group_is_stored_at_once(connection: Connection) -> None:
    group = [received(number) for number in range(1, 1201)]
    assert Counter(store_instances(connection, group, later(30))) == {"stored": 1200}
    assert Counter(store_instances(connection, group, later(30))) == {"duplicate": 1200}
    uids = [one.sop_instance_uid for one in reversed(group)]
    assert [one.sop_instance_uid for one in instances(connection, uids)] == uids


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda number, content, series, study: received(
                number, series=f"1.{series}", study=str(study), digest=f"{content:064x}"
            ),
            st.integers(1, 3),
            st.integers(1, 2),
            st.integers(1, 2),
            st.integers(1, 2),
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_grouping_changes_no_answer(group: list, cut: int) -> None:
    answers = []
    for groups in ([group], [group[:cut], group[cut:]], [[one] for one in group]):
        engine = create_engine("sqlite://")
        tables.metadata.create_all(engine)
        with engine.begin() as connection:
            answers.append([
                answer for part in groups for answer in store_instances(connection, part, later(30))
            ])  # fmt: skip
            assert count_instances(connection) == answers[-1].count("stored")
        engine.dispose()
    assert answers[0] == answers[1] == answers[2]


def test_release_brings_the_deadline_forward_and_never_back(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    release_series(connection, ["1.2.3"], later(50))
    assert next_settle_at(connection) == later(30)
    release_series(connection, ["1.2.3", "unknown"], later(2))
    assert next_settle_at(connection) == later(2)
    store_instances(connection, [received(2)], later(40))
    assert next_settle_at(connection) == later(40)


def test_a_study_is_due_when_its_last_series_is(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    store_instances(connection, [received(1, series="1.2.4")], later(50))
    store_instances(connection, [received(1, series="8.1", study="8")], later(40))
    assert next_settle_at(connection) == later(40)
    assert due_studies(connection, later(39.999)) == []
    assert due_studies(connection, later(40)) == ["8"]
    assert due_studies(connection, later(50)) == ["8", "1.2"]


def test_settling_ends_waiting_and_a_late_image_begins_it_again(connection: Connection) -> None:
    store_instances(connection, [received(1), received(1, series="1.2.4")], later(30))
    assert settle_study(connection, "1.2", later(29)) == 0
    assert settle_study(connection, "1.2", later(30)) == 2
    assert settle_study(connection, "1.2", later(31)) == 0
    assert due_studies(connection, later(99)) == []
    store_instances(connection, [received(2)], later(90))
    assert [one.state for one in study_series(connection, "1.2")] == ["RECEIVING", "SETTLED"]
    assert due_studies(connection, later(90)) == ["1.2"]


def test_a_release_does_not_reopen_a_settled_series(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    settle_study(connection, "1.2", later(30))
    release_series(connection, ["1.2.3"], later(1))
    assert study_series(connection, "1.2")[0].settle_at == later(30)


def test_instances_that_are_gone_are_named(connection: Connection) -> None:
    store_instances(connection, [received(1)], later(30))
    with pytest.raises(Permanent, match=r"1 of 2 instances are not stored: 1\.2\.3\.9"):
        instances(connection, ["1.2.3.1", "1.2.3.9"])


def test_what_is_set_aside_is_visible(connection: Connection) -> None:
    first = Quarantined(NOW, "not-dicom", "no DICM prefix")
    second = Quarantined(later(1), "conflict", "other content", "quarantine/1", "1.2.3.1", "MODALITY")
    record_quarantine(connection, first)
    record_quarantine(connection, second)
    assert recent_quarantine(connection) == [second, first]
    assert recent_quarantine(connection, limit=1) == [second]


def test_holdings_count_everything(connection: Connection) -> None:
    assert holdings(connection) == Holdings(0, 0, 0, 0, 0, 0, 0)
    store_instances(connection, [received(1), received(2), received(1, series="1.2.4")], later(30))
    settle_study(connection, "1.2", later(30))
    store_instances(connection, [received(1, series="8.1", study="8")], later(40))
    record_quarantine(connection, Quarantined(NOW, "not-dicom", "no DICM prefix"))
    record_decisions(connection, [decided(DecisionOutcome.NOT_ANALYSED, "no-lung")])
    assert holdings(connection) == Holdings(
        studies=2,
        series_receiving=1,
        series_settled=2,
        instances=4,
        instance_bytes=1001 + 1002 + 1001 + 1001,
        quarantined=1,
        not_analysed=1,
    )


def test_headers_are_kept_as_json(connection: Connection) -> None:
    header = {"ImageType": ["ORIGINAL", "PRIMARY"], "EchoTime": 2.5, "SeriesDescription": "T1 é"}
    store_instances(connection, [received(1, series_header=header)], later(30))
    assert json.loads(json.dumps(study_series(connection, "1.2")[0].header)) == header
