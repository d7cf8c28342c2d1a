"""Every recorded trace, replayed through the real settler: never early where anything says that more will come."""

from pathlib import Path

import pytest

from tests.replay import Trace, replay, traces

TRACES = traces()
LONG_WAIT = {
    # trace: why more than 2 s pass after the last image although the archive is asked
    "archive-down": "no count: as without an archive",
    "count-too-high": "the hard limit: the archive counts images that never come",
    "missing-slices-forever": "the hard limit: the archive counts images that never come",
    "grows-for-an-hour": "the archive is still receiving: twice the sender's own gap",
    "grows-in-one-association": "the archive is still receiving: twice the sender's own gap",
    "late-images": "the archive does not know more than what it has sent",
}


def names(trace: Trace) -> str:
    return trace.name


def test_there_are_enough_traces() -> None:
    assert len(TRACES) >= 20


@pytest.mark.parametrize("trace", [each for each in TRACES if each.has_evidence], ids=names)
def test_default_evidence_is_never_early(trace: Trace, tmp_path: Path) -> None:
    outcome = replay(trace, tmp_path, with_archive=False)
    assert outcome.premature == 0
    assert outcome.waited_seconds <= 300


@pytest.mark.parametrize("trace", [each for each in TRACES if each.has_evidence], ids=names)
def test_with_a_count_it_is_never_early_and_soon(trace: Trace, tmp_path: Path) -> None:
    outcome = replay(trace, tmp_path, with_archive=True)
    assert outcome.premature == 0
    assert outcome.waited_seconds <= (300 if trace.name in LONG_WAIT else 2)


@pytest.mark.parametrize("name", ["two-associations", "series-as-scanned"])
def test_a_count_helps_where_nothing_else_does(name: str, tmp_path: Path) -> None:
    (trace,) = [each for each in TRACES if each.name == name]
    outcome = replay(trace, tmp_path, with_archive=True)
    assert (outcome.premature, outcome.settled_by) == (0, "count")
    assert outcome.waited_seconds <= 2


@pytest.mark.parametrize("name", ["one-association", "shuffled", "several-series", "two-senders-same", "ten-thousand"])
def test_a_released_stack_waits_the_short_quiet_time(name: str, tmp_path: Path) -> None:
    (trace,) = [each for each in TRACES if each.name == name]
    outcome = replay(trace, tmp_path, with_archive=False)
    assert (outcome.settled_by, outcome.premature) == ("released-whole", 0)
    assert outcome.waited_seconds <= 2.3


def test_late_images_settle_again(tmp_path: Path) -> None:
    (trace,) = [each for each in TRACES if each.name == "late-images"]
    outcome = replay(trace, tmp_path, with_archive=False)
    assert (outcome.premature, outcome.settled_by) == (1, "released-whole")
