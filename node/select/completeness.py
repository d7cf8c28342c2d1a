"""When is a study whole? Decided from evidence, never from a timer alone. Pure: times are arguments.

Evidence, in the order in which it is trusted:

1. the archive's count of each series, if it was ahead of what had arrived when it was asked (an archive that itself
   is still receiving counts just what it has passed on, and proves nothing);
2. an equal count, or the release of the association, with a stack without holes: whole after a short quiet time;
3. the same without a stack to judge by: whole after a longer quiet time;
4. nothing: an association that was never released, a hole in a stack, a count that is not reached. These say that
   images are missing, and only the hard limit ends the wait.

A sender that goes on after a release (one association for each image, a study in two parts) is given time by its own
gaps: twice the longest in this study, one and a half times the usual longest of its last studies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

OWN_GAP_FACTOR = 2.0
USUAL_GAP_FACTOR = 1.5
USUAL_SHARE = 0.9
"""Share of a sender's last studies whose longest gap is waited for."""
NEVER_RELEASES_AFTER = 3
"""Studies after which a sender that released none of them is known not to release."""


class Shape(StrEnum):
    """WHOLE: stacked evenly, nothing missing in between. HOLED: something is missing. UNKNOWN: not a stack."""

    WHOLE = "whole"
    HOLED = "holed"
    UNKNOWN = "unknown"


class Trust(StrEnum):
    """AHEAD: the archive counted more than had arrived, and the same since. EQUAL: only ever what had arrived.
    GROWING: its count rose while we looked, so it is still receiving."""

    AHEAD = "ahead"
    EQUAL = "equal"
    GROWING = "growing"


class SettledBy(StrEnum):
    """The evidence by which a study settled; kept with its series."""

    COUNT = "count"
    EQUAL_COUNT = "equal-count"
    RELEASED_WHOLE = "released-whole"
    RELEASED = "released"
    NEVER_RELEASES = "never-releases"
    LIMIT_COUNT = "limit-count-not-reached"
    LIMIT_HOLE = "limit-hole-in-stack"
    LIMIT_OPEN = "limit-not-released"


WITHOUT_RELEASE = frozenset({SettledBy.NEVER_RELEASES, SettledBy.LIMIT_OPEN})


@dataclass(frozen=True)
class Patience:
    """Waits in seconds, counted from the last image or the release, whichever is later."""

    quiet_seconds: float
    released_quiet_seconds: float
    limit_seconds: float


@dataclass(frozen=True)
class SeriesEvidence:
    """One series of the study: images here, when the last came, its release after that (None: not), its shape.

    `was_resumed`: images came after an earlier release of it.
    """

    received: int
    last_received_at: datetime
    released_at: datetime | None
    shape: Shape
    was_resumed: bool = False


@dataclass(frozen=True)
class ArchiveCount:
    """What the archive counts in each series of the study."""

    asked_at: datetime
    counts: Mapping[str, int]
    trust: Trust
    whole_study: bool = True


@dataclass(frozen=True)
class PastStudy:
    """An earlier study of the sender: the longest gap after a release (0: none), and by what it settled."""

    resumed_seconds: float
    settled_by: str


@dataclass(frozen=True)
class StudyEvidence:
    """All that is known.

    `receiving` are the series with new images; `settled` counts the images of the others. `resumed_seconds` is this
    study's own longest gap between a release and the next image; `arrival_seconds` that between two images.
    """

    receiving: Mapping[str, SeriesEvidence]
    settled: Mapping[str, int]
    resumed_seconds: float = 0.0
    arrival_seconds: float = 0.0
    count: ArchiveCount | None = None
    past: Sequence[PastStudy] = ()

    @property
    def last_received_at(self) -> datetime:
        """When the last image came."""
        return max(each.last_received_at for each in self.receiving.values())

    @property
    def released_at(self) -> datetime | None:
        """When the last association was released; None while any series with new images was not."""
        found = [each.released_at for each in self.receiving.values()]
        return None if None in found else max(each for each in found if each is not None)

    @property
    def shape(self) -> Shape:
        """HOLED if any stack is; WHOLE if any stack is (what is no stack says nothing)."""
        shapes = {each.shape for each in self.receiving.values()}
        return Shape.HOLED if Shape.HOLED in shapes else Shape.WHOLE if Shape.WHOLE in shapes else Shape.UNKNOWN


@dataclass(frozen=True)
class Verdict:
    """When the study settles if nothing more comes, by which evidence, and the sentence for people."""

    settle_at: datetime
    settled_by: SettledBy
    message: str


def assess(evidence: StudyEvidence, patience: Patience) -> Verdict:
    """Weigh the evidence about a study that has at least one series with new images."""
    last, released_at = evidence.last_received_at, evidence.released_at
    limit_at = last + timedelta(seconds=patience.limit_seconds)
    missing = missing_by_count(evidence)
    if missing:
        return Verdict(limit_at, SettledBy.LIMIT_COUNT, f"the archive counts {missing} images more than have come")
    if missing is not None and evidence.count is not None and evidence.count.asked_at >= last:
        if evidence.count.trust is Trust.AHEAD:
            # An open association may still bring what an archive that counts wrong does not know.
            waited = 0.0 if released_at is not None else patience.released_quiet_seconds
            settle_at = last + timedelta(seconds=waited)
            return Verdict(settle_at, SettledBy.COUNT, "all images that the archive counts are here")
        return _equal_count(evidence, patience, limit_at)
    if released_at is None:
        return _unreleased(evidence, patience, limit_at)
    if evidence.shape is Shape.HOLED:
        return Verdict(limit_at, SettledBy.LIMIT_HOLE, "released, but a stack has a hole: images are missing")
    whole = evidence.shape is Shape.WHOLE
    quiet = patience.released_quiet_seconds if whole else patience.quiet_seconds
    waited = max(quiet, learned_seconds(evidence))
    settle_at = min(released_at + timedelta(seconds=waited), max(limit_at, released_at))
    said = "released, no hole in the stack" if whole else "released, no stack to judge"
    return Verdict(
        settle_at, SettledBy.RELEASED_WHOLE if whole else SettledBy.RELEASED, f"{said}, quiet for {waited:g} s"
    )


def may_begin_early(evidence: StudyEvidence) -> frozenset[str]:
    """The series with new images on which work is worth beginning before the study settles; none while images miss.

    A stack without holes that came in one association. One that was resumed after a release may be resumed again, and
    work on each piece of it would be for nothing.
    """
    if evidence.released_at is None or evidence.shape is Shape.HOLED or missing_by_count(evidence):
        return frozenset()
    return frozenset(
        uid for uid, each in evidence.receiving.items() if each.shape is Shape.WHOLE and not each.was_resumed
    )


def missing_by_count(evidence: StudyEvidence) -> int | None:
    """Images that the archive counts and that have not come; None when it does not count what has come."""
    if evidence.count is None:
        return None
    here = {**evidence.settled, **{uid: each.received for uid, each in evidence.receiving.items()}}
    counts = evidence.count.counts
    if any(uid not in counts for uid in evidence.receiving):
        return None
    wanted = counts if evidence.count.whole_study else [uid for uid in counts if uid in here]
    return sum(max(0, counts[uid] - here.get(uid, 0)) for uid in wanted)


def trust_of(previous: ArchiveCount | None, counts: Mapping[str, int], received: Mapping[str, int]) -> Trust:
    """How far a new answer can be trusted, after the `previous` one and with `received` images here."""
    if previous is not None:
        if previous.trust is Trust.GROWING or sum(counts.values()) > sum(previous.counts.values()):
            return Trust.GROWING
        if previous.trust is Trust.AHEAD:
            return Trust.AHEAD
    return Trust.AHEAD if any(number > received.get(uid, 0) for uid, number in counts.items()) else Trust.EQUAL


def learned_seconds(evidence: StudyEvidence) -> float:
    """The quiet time that this sender's own gaps ask for."""
    own = evidence.resumed_seconds * OWN_GAP_FACTOR
    gaps = sorted(each.resumed_seconds for each in evidence.past)
    usual = gaps[math.ceil(USUAL_SHARE * len(gaps)) - 1] * USUAL_GAP_FACTOR if gaps else 0.0
    return max(own, usual)


def longest_gap_after(releases: Sequence[datetime], arrivals: Sequence[datetime], limit_seconds: float) -> float:
    """The longest time from a release to the next arrival, in seconds; longer than the limit does not count."""
    ordered = sorted(arrivals)
    longest, position = 0.0, 0
    for released_at in sorted(releases):
        while position < len(ordered) and ordered[position] <= released_at:
            position += 1
        if position == len(ordered):
            break
        gap = (ordered[position] - released_at).total_seconds()
        longest = max(longest, gap) if gap <= limit_seconds else longest
    return longest


def longest_gap(arrivals: Sequence[datetime], limit_seconds: float) -> float:
    """The longest time between two arrivals, in seconds; longer than the limit does not count."""
    ordered = sorted(arrivals)
    gaps = [(after - before).total_seconds() for before, after in pairwise(ordered)]
    return max((gap for gap in gaps if gap <= limit_seconds), default=0.0)


def _equal_count(evidence: StudyEvidence, patience: Patience, limit_at: datetime) -> Verdict:
    """The archive counts what is here, and never counted more: wait longer than the sender's own gaps."""
    released_at = evidence.released_at
    if released_at is not None:
        start, gap = released_at, learned_seconds(evidence)
    else:
        start, gap = evidence.last_received_at, evidence.arrival_seconds * OWN_GAP_FACTOR
    quiet = patience.released_quiet_seconds if evidence.shape is Shape.WHOLE else patience.quiet_seconds
    waited = max(quiet, gap)
    settle_at = min(start + timedelta(seconds=waited), max(limit_at, start))
    return Verdict(settle_at, SettledBy.EQUAL_COUNT, f"the archive counts what is here, quiet for {waited:g} s")


def _unreleased(evidence: StudyEvidence, patience: Patience, limit_at: datetime) -> Verdict:
    past = evidence.past
    never_releases = len(past) >= NEVER_RELEASES_AFTER and all(each.settled_by in WITHOUT_RELEASE for each in past)
    if never_releases and evidence.shape is not Shape.HOLED:
        waited = max(patience.quiet_seconds, evidence.arrival_seconds * OWN_GAP_FACTOR)
        settle_at = min(evidence.last_received_at + timedelta(seconds=waited), limit_at)
        return Verdict(settle_at, SettledBy.NEVER_RELEASES, f"this sender never releases, quiet for {waited:g} s")
    return Verdict(limit_at, SettledBy.LIMIT_OPEN, "the association was not released: the sender may not be done")
