from itertools import product

import pytest

from node.jobs.state import TRANSITIONS, IllegalTransition, JobEvent, next_state
from node.store.tables import JobState

ALL_PAIRS = list(product([None, *JobState], JobEvent))

# Written out a second time on purpose: from state, what may happen, and where it leads.
LEGAL = {
    None: {"ENQUEUE": "QUEUED"},
    "QUEUED": {"CLAIM": "RUNNING", "CANCEL": "CANCELLED"},
    "RUNNING": {
        "SUCCEED": "SUCCEEDED",
        "RETRY": "QUEUED",
        "FAIL": "FAILED",
        "RELEASE": "QUEUED",
        "RESCUE": "QUEUED",
        "EXHAUST": "FAILED",
        "NODE_DIED": "QUEUED",
        "REQUEST_CANCEL": "RUNNING",
        "CANCEL": "CANCELLED",
    },
    "SUCCEEDED": {"REQUEUE": "QUEUED"},
    "FAILED": {"REQUEUE": "QUEUED"},
    "CANCELLED": {"REQUEUE": "QUEUED"},
}


@pytest.mark.parametrize(("state", "event"), ALL_PAIRS, ids=lambda value: str(value or "NONE"))
def test_every_state_and_event(state: JobState | None, event: JobEvent) -> None:
    expected = LEGAL[state].get(event)
    if expected is None:
        with pytest.raises(IllegalTransition) as raised:
            next_state(state, event)
        assert (raised.value.state, raised.value.event) == (state, event)
    else:
        assert next_state(state, event) is JobState(expected)


def test_the_message_names_state_and_event() -> None:
    with pytest.raises(IllegalTransition, match="CLAIM is not possible for a job that is SUCCEEDED"):
        next_state(JobState.SUCCEEDED, JobEvent.CLAIM)


def test_every_state_is_reached_and_left() -> None:
    assert {state for state, _ in TRANSITIONS} == {None, *JobState}
    assert set(TRANSITIONS.values()) == set(JobState)
