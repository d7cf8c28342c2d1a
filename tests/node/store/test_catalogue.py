from sqlalchemy import Connection

from node.store.catalogue import due_studies, next_settle_at, store_instances, study_series
from tests.node.store.examples import later, received


def test_an_instance_is_stored_once(connection: Connection) -> None:
    assert store_instances(connection, [received(1), received(2)], later(30)) == ["stored", "stored"]
    (series,) = study_series(connection, "1.2")
    assert [one.sop_instance_uid for one in series.instances] == ["1.2.3.1", "1.2.3.2"]
    assert next_settle_at(connection) == later(30)
    assert due_studies(connection, later(30)) == ["1.2"]
