"""Why a study did or did not lead to work."""

from sqlalchemy import Connection

from node.store.decisions import decisions_of_study, forget_decisions, recent_decisions, record_decisions
from node.store.tables import DecisionOutcome
from tests.node.store.examples import add_study, decided


def test_the_last_decision_for_a_route_and_model_wins(connection: Connection) -> None:
    add_study(connection)
    record_decisions(connection, [decided(DecisionOutcome.NOT_ANALYSED, "too-few-slices")])
    record_decisions(connection, [decided(DecisionOutcome.QUEUED, "chosen", seconds=9)])
    record_decisions(connection, [decided(DecisionOutcome.NOT_ANALYSED, "no-lung", "lung")])
    assert decisions_of_study(connection, "1.2") == [
        decided(DecisionOutcome.QUEUED, "chosen", seconds=9),
        decided(DecisionOutcome.NOT_ANALYSED, "no-lung", "lung"),
    ]
    assert recent_decisions(connection) == [decided(DecisionOutcome.NOT_ANALYSED, "no-lung", "lung")]
    forget_decisions(connection, "1.2")
    assert decisions_of_study(connection, "1.2") == []
