"""Studies of one patient: found by a keyed hash, in the order of their dates."""

import threading
from pathlib import Path

from sqlalchemy import Engine

from node.priors import priors_of
from node.store.catalogue import store_instances
from node.store.database import read_transaction, write_transaction
from node.store.patients import PatientKeys
from node.store.tables import SeriesState, series
from tests.node.store.examples import later, received


def test_the_hash_is_that_of_the_node_and_the_issuer(tmp_path: Path) -> None:
    keys = PatientKeys(tmp_path)
    one = keys.key_of("4711", "HOSPITAL")
    assert one is not None and len(one) == 64 and "4711" not in one
    assert PatientKeys(tmp_path).key_of("4711", "HOSPITAL") == one
    assert len({one, keys.key_of("4711"), keys.key_of("1", "4711HOSPITAL"), keys.key_of("HOSPITAL", "4711")}) == 4
    other = tmp_path / "other"
    other.mkdir()
    assert PatientKeys(other).key_of("4711", "HOSPITAL") != one
    assert keys.key_of("", "HOSPITAL") is None
    assert (tmp_path / "patient.key").stat().st_mode & 0o077 == 0


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(PatientKeys(tmp_path).key_of("1"))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["patient.key"]


def add(engine: Engine, study: str, when: str | None, key: str | None = "k" * 64, settled: bool = True) -> None:
    with write_transaction(engine) as connection:
        one = received(
            1,
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            sop_instance_uid=f"{study}.1.1",
            patient_key=key,
            study_date_time=when,
        )
        store_instances(connection, [one], later(9))
        if settled:
            connection.execute(series.update().values(state=SeriesState.SETTLED))


def test_earlier_studies_of_the_patient_are_found_nearest_first(engine: Engine) -> None:
    add(engine, "5.1", "20200101120000")
    add(engine, "5.2", "20220101120000")
    add(engine, "5.3", "20210101120000", key="x" * 64)
    add(engine, "5.4", "20240101120000")
    add(engine, "5.5", "20230101120000")
    with read_transaction(engine) as connection:
        found = priors_of(connection, "5.5")
    assert [each.study_instance_uid for each in found.studies] == ["5.2", "5.1"]


def test_why_no_earlier_study_is_known(engine: Engine) -> None:
    add(engine, "5.1", "20200101120000", key=None)
    add(engine, "5.2", None)
    add(engine, "5.3", "20200101120000")
    add(engine, "5.4", "20210101120000", settled=False)
    add(engine, "5.6", "20190101120000", key="y" * 64, settled=False)
    add(engine, "5.7", "20200101120000", key="y" * 64, settled=False)
    with read_transaction(engine) as connection:
        said = {uid: priors_of(connection, uid).none_because for uid in ("5.1", "5.2", "5.3", "5.7")}
    assert "no Patient ID" in said["5.1"]
    assert "no Study Date" in said["5.2"]
    assert said["5.3"] == "no earlier study of this patient is here"
    assert said["5.7"] == "1 earlier studies of this patient are known: 1 are arriving"
