"""Which series feeds which input of a model: hard requirements first, then the order of `node.select.merit`. Pure.

Of the candidates that meet every requirement of an input the best is taken. Several inputs never get the same images
(`node.select.assign`); those that ask for one Frame of Reference are fed from the frame of the best candidate of the
first input with which all required inputs can be fed. Inputs with `timepoint = "prior"` are all fed from one earlier
study: the nearest that can feed all that are required.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from node.infer.manifest import Manifest
from node.infer.requirements import Requirements
from node.select.assign import assign, can_feed
from node.select.candidates import Candidate, Priors, candidates_of
from node.select.merit import describe_rank, order_of, why_better
from node.select.requirements import check_candidate, never_given
from node.select.rules import Condition, all_met
from node.store.catalogue import StoredSeries
from node.store.digests import unmarked

NEARER_STUDY = "a nearer study is taken"


@dataclass(frozen=True)
class SeriesVerdict:
    """One candidate asked for one model input: each requirement with what was found, and its rank if all are met.

    `part` names the part of a series that was split; it is empty for a whole series. `instead` says what was preferred
    to one that fits.
    """

    series_instance_uid: str
    conditions: tuple[Condition, ...]
    rank: str
    part: str = ""
    is_chosen: bool = False
    instead: str = ""
    study_instance_uid: str = ""
    name: str = ""

    @property
    def eligible(self) -> bool:
        """Whether every requirement is met."""
        return all_met(self.conditions)


@dataclass(frozen=True)
class InputChoice:
    """What was chosen for one input: the series, or None, with the verdict on every candidate (best first).

    `nothing_because` says why there were no candidates at all.
    """

    input_name: str
    chosen: StoredSeries | None
    verdicts: tuple[SeriesVerdict, ...]
    is_optional: bool = False
    is_prior: bool = False
    nothing_because: str = ""


@dataclass(frozen=True)
class Ranked:
    """A candidate with what is the same for all inputs: why no model is given it, if so, and its rank for people."""

    candidate: Candidate
    never: tuple[Condition, ...]
    rank: str


@dataclass(frozen=True)
class _Judged:
    """The candidates in order, and for each input the conditions of each."""

    ranked: Sequence[Ranked]
    conditions: Mapping[str, Sequence[tuple[Condition, ...]]]

    @cached_property
    def fits(self) -> dict[str, list[bool]]:
        """Whether each candidate meets all conditions, by input."""
        return {name: [all_met(each) for each in found] for name, found in self.conditions.items()}

    def offers(self, names: Sequence[str]) -> dict[str, list[int]]:
        """The candidates that fit, by input."""
        return {name: [number for number, fits in enumerate(self.fits[name]) if fits] for name in names}


def ranked_of(series: Sequence[StoredSeries]) -> tuple[Ranked, ...]:
    """All candidates of a study, the best first."""
    ordered = sorted(candidates_of(series), key=order_of)
    return tuple(Ranked(each, never_given(each), describe_rank(each)) for each in ordered)


def choose_inputs(
    manifest: Manifest, series: Sequence[StoredSeries], priors: Priors = Priors()
) -> tuple[InputChoice, ...]:
    """Choose a series, or a part of one, for each input of a model among the series given."""
    return choose_among(manifest, ranked_of(series), priors)


def choose_among(
    manifest: Manifest, candidates: Sequence[Ranked], priors: Priors = Priors()
) -> tuple[InputChoice, ...]:
    """The same for candidates that were ranked before, the best first."""
    wanted = {each.name: each.requires for each in manifest.inputs}
    now = {name: requires for name, requires in wanted.items() if requires.timepoint == "current"}
    earlier = {name: requires for name, requires in wanted.items() if requires.timepoint == "prior"}
    made = {each.input_name: each for each in _choose_current(now, candidates)}
    made.update({each.input_name: each for each in _choose_prior(earlier, priors)})
    return tuple(made[name] for name in wanted)


def is_fed(choice: InputChoice) -> bool:
    """Whether the model can run as far as this input goes."""
    return choice.chosen is not None or choice.is_optional


def input_digest(choices: Sequence[InputChoice]) -> str:
    """SHA-256 (hex) that names the input set: input names, SOP Instance UIDs and the digests of their content."""
    digest = hashlib.sha256()
    for choice in sorted(choices, key=lambda choice: choice.input_name):
        digest.update(f"input {choice.input_name}\n".encode())
        members = choice.chosen.instances if choice.chosen else ()
        for uid, content in sorted((each.sop_instance_uid, each.digest) for each in members):
            digest.update(f"{uid} {unmarked(content)}\n".encode())
    return digest.hexdigest()


def _judge(wanted: Mapping[str, Requirements], ranked: Sequence[Ranked]) -> _Judged:
    return _Judged(
        ranked,
        {
            name: [(*check_candidate(requires, each.candidate), *each.never) for each in ranked]
            for name, requires in wanted.items()
        },
    )


def _choose_current(wanted: Mapping[str, Requirements], candidates: Sequence[Ranked]) -> list[InputChoice]:
    if not wanted:
        return []
    judged = _judge(wanted, candidates)
    if any(requires.same_frame_of_reference for requires in wanted.values()):
        judged = _in_one_frame(wanted, judged)
    return _choices(wanted, judged, _assigned(wanted, judged))


def _assigned(wanted: Mapping[str, Requirements], judged: _Judged) -> dict[str, int]:
    required = [name for name, requires in wanted.items() if not requires.optional]
    optional = [name for name, requires in wanted.items() if requires.optional]
    return assign(judged.offers(required), judged.offers(optional))


def _in_one_frame(wanted: Mapping[str, Requirements], judged: _Judged) -> _Judged:
    """With the condition that the frame is that of the first input, and the first input kept to that frame."""
    required = [name for name, requires in wanted.items() if not requires.optional]
    tried = [_kept_to(frame, wanted, judged) for frame in _frames(next(iter(wanted)), judged)]
    feeding = (each for each in tried if can_feed(each.offers(required)))
    return next(feeding, tried[0] if tried else judged)


def _frames(first: str, judged: _Judged) -> Iterator[str]:
    """The frames of what fits the first input, that of its best candidate first; of all candidates where none fits."""
    fitting = [judged.ranked[number] for number in judged.offers([first])[first]]
    yield from dict.fromkeys(_frame(each.candidate) for each in fitting or judged.ranked)


def _kept_to(frame: str, wanted: Mapping[str, Requirements], judged: _Judged) -> _Judged:
    first = next(iter(wanted))
    conditions = {}
    for name, requires in wanted.items():
        asked = name == first or requires.same_frame_of_reference
        conditions[name] = [
            (*each, _same_frame(frame, one.candidate, first)) if asked else each
            for each, one in zip(judged.conditions[name], judged.ranked, strict=True)
        ]
    return _Judged(judged.ranked, conditions)


def _same_frame(frame: str, candidate: Candidate, first: str) -> Condition:
    """Without a Frame of Reference nothing says that two series show the patient in one place."""
    found = _frame(candidate)
    wanted = f"{frame or 'any'}, one for {first} and what is laid over it"
    return Condition("Frame of Reference", wanted, found or "absent", bool(frame) and found == frame)


def _frame(candidate: Candidate) -> str:
    return str(candidate.series.header.get("FrameOfReferenceUID") or "")


def _choose_prior(wanted: Mapping[str, Requirements], priors: Priors) -> list[InputChoice]:
    """From the nearest earlier study that can feed all required inputs; without one from the nearest that feeds any."""
    if not wanted:
        return []
    required = [name for name, requires in wanted.items() if not requires.optional]
    tried = [_judge(wanted, ranked_of(study.series)) for study in priors.studies]
    feeding = [each for each in tried if can_feed(each.offers(required)) and any(each.offers(list(wanted)).values())]
    nearest = feeding[0] if feeding else None
    chosen = _assigned(wanted, nearest) if nearest else {}
    made: dict[str, list[InputChoice]] = {name: [] for name in wanted}
    for judged in tried:
        instead = "" if judged is nearest or nearest is None else NEARER_STUDY
        for choice in _choices(wanted, judged, chosen if judged is nearest else {}, instead):
            made[choice.input_name].append(choice)
    return [_of_all_studies(name, requires, made[name], priors) for name, requires in wanted.items()]


def _of_all_studies(name: str, requires: Requirements, choices: Sequence[InputChoice], priors: Priors) -> InputChoice:
    return InputChoice(
        input_name=name,
        chosen=next((each.chosen for each in choices if each.chosen), None),
        verdicts=tuple(verdict for each in choices for verdict in each.verdicts),
        is_optional=requires.optional,
        is_prior=True,
        nothing_because=priors.none_because if not priors.studies else "",
    )


def _choices(
    wanted: Mapping[str, Requirements], judged: _Judged, chosen: Mapping[str, int], instead: str = ""
) -> list[InputChoice]:
    made = []
    for name, requires in wanted.items():
        fitting: list[SeriesVerdict] = []
        others: list[SeriesVerdict] = []
        for number, (ranked, conditions) in enumerate(zip(judged.ranked, judged.conditions[name], strict=True)):
            fits = judged.fits[name][number]
            fits_in_vain = fits and chosen.get(name) != number
            preferred = (instead or _preferred(name, number, judged, chosen)) if fits_in_vain else ""
            (fitting if fits else others).append(_verdict(ranked, conditions, chosen.get(name) == number, preferred))
        others.sort(key=lambda verdict: sum(not each.met for each in verdict.conditions))
        series = judged.ranked[chosen[name]].candidate.series if name in chosen else None
        made.append(InputChoice(name, series, (*fitting, *others), requires.optional))
    return made


def _preferred(name: str, number: int, judged: _Judged, chosen: Mapping[str, int]) -> str:
    """Why a candidate that fits does not feed this input."""
    for other, taken in chosen.items():
        if taken == number:
            return f"it feeds {other}"
    if name not in chosen:
        return "other inputs of this model lack something"
    if number < chosen[name]:
        return "taking it would leave another input without images"
    return why_better(judged.ranked[chosen[name]].candidate, judged.ranked[number].candidate)


def _verdict(ranked: Ranked, conditions: tuple[Condition, ...], is_chosen: bool, instead: str) -> SeriesVerdict:
    candidate = ranked.candidate
    return SeriesVerdict(
        series_instance_uid=candidate.series.series_instance_uid,
        conditions=conditions,
        rank=ranked.rank,
        part=candidate.part,
        is_chosen=is_chosen,
        instead=instead,
        study_instance_uid=candidate.series.study_instance_uid,
        name=candidate.name,
    )
