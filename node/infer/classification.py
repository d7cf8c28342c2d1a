"""Outputs without a place: classes, grades, numbers, vectors, words. Pure."""

from collections.abc import Sequence

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Likelihood, Measurement, Presence, Qualifier
from node.errors import Permanent
from node.infer.measure import UNITS
from node.infer.networks import activate_scores
from node.infer.output_sections import (
    Class,
    Classification,
    Embedding,
    Grading,
    Regression,
    Scored,
    TextOutput,
    Value,
)
from node.infer.parts import Call, Part

SENTENCE_PIECE_SPACE = "\u2581"
ROUNDING = 1e-3
"""By how much a probability may miss 0 or 1 without being another kind of score."""


def presence_of(score: float, section: Class) -> Presence:
    """What a score says of a class."""
    if score >= section.threshold:
        return Presence.PRESENT
    if section.indeterminate_from is not None and score >= section.indeterminate_from:
        return Presence.INDETERMINATE
    return Presence.ABSENT


def scored(
    section: Scored, score: float, operating_point: float | None
) -> tuple[Likelihood | None, tuple[Measurement, ...]]:
    """A score as a likelihood, or, if it is no probability, as a number without a unit."""
    concept: Code = section.score.code
    if section.probability:
        if not -ROUNDING <= score <= 1 + ROUNDING:
            raise Permanent(
                f'found a score of {score:g}, expected 0 to 1: set activation = "sigmoid" or "softmax", or '
                "probability = false where scores are none"
            )
        return Likelihood(float(np.clip(score, 0, 1)), concept, operating_point), ()
    return None, (Measurement(concept, float(score), UNITS["1"]),)


def _scores(calls: Sequence[Call], tensor: str, channels: int, activation: str, model: str) -> np.ndarray:
    """Scores (call, channel), checked."""
    rows = []
    for call in calls:
        found = call.tensors[tensor]
        row = found.reshape(-1)
        if row.size < channels or (found.ndim > 1 and row.size != found.shape[-1]):
            raise Permanent(
                f"model {model}: output {tensor!r} has shape {found.shape} for one call, expected "
                f"(1, {channels}) or more channels"
            )
        rows.append(activate_scores(row, activation))
    return np.array(rows, np.float64)


def _groups(calls: Sequence[Call], level: str) -> list[list[int]]:
    """Places of the calls that make one finding: all of them, or those of one subject."""
    if level == "study":
        return [list(range(len(calls)))]
    names = dict.fromkeys(call.subject.name for call in calls)
    return [[place for place, call in enumerate(calls) if call.subject.name == name] for name in names]


def _combine(scores: np.ndarray, how: str) -> np.ndarray:
    return np.asarray(scores.max(axis=0) if how == "maximum" else scores.mean(axis=0))


def classify(section: Classification, calls: Sequence[Call], activation: str, model: str) -> Part:
    """For each class whether it is there."""
    channels = max(each.channel for each in section.classes) + 1
    scores = _scores(calls, section.tensor, channels, activation, model)
    findings, present, groups = [], set(), _groups(calls, section.level)
    for group in groups:
        combined = _combine(scores[group], section.combine)
        for each in section.classes:
            score = float(combined[each.channel])
            likelihood, measurements = scored(section, score, each.threshold)
            presence = presence_of(score, each)
            if presence is Presence.PRESENT:
                present.add(each.name)
            best = calls[group[int(scores[group, each.channel].argmax())]]
            view = f", {best.subject.name}" if len(groups) > 1 else ""
            findings.append(
                Finding(
                    finding=each.finding.code,
                    tracking_identifier=each.name + view,
                    finding_site=each.finding_site.code if each.finding_site else None,
                    laterality=each.laterality.code if each.laterality else None,
                    measurements=measurements,
                    presence=presence,
                    likelihood=likelihood,
                    images=(best.image,) if section.level == "image" else (),
                    critical=each.critical,
                )
            )
    return Part(findings=tuple(findings), present=frozenset(present))


def grade(section: Grading, calls: Sequence[Call], activation: str, model: str) -> Part:
    """One answer of several."""
    channels = max(each.channel for each in section.grades) + 1
    scores = _scores(calls, section.tensor, channels, activation, model)
    findings, present, groups = [], set(), _groups(calls, section.level)
    for group in groups:
        combined = _combine(scores[group], section.combine)
        best = max(section.grades, key=lambda each: combined[each.channel])
        score = float(combined[best.channel])
        likelihood, measurements = scored(section, score, None)
        doubtful = section.indeterminate_below is not None and score < section.indeterminate_below
        if not doubtful:
            present.add(best.name)
        seen = calls[group[int(scores[group, best.channel].argmax())]]
        view = f", {seen.subject.name}" if len(groups) > 1 else ""
        findings.append(
            Finding(
                finding=section.finding.code,
                tracking_identifier=section.name + view,
                finding_site=section.finding_site.code if section.finding_site else None,
                measurements=measurements,
                presence=Presence.INDETERMINATE if doubtful else Presence.PRESENT,
                likelihood=likelihood,
                qualifiers=(Qualifier(section.concept.code, best.value.code),),
                images=(seen.image,) if section.level == "image" else (),
                critical=best.critical,
            )
        )
    return Part(findings=tuple(findings), present=frozenset(present))


def regress(section: Regression, calls: Sequence[Call], model: str) -> Part:
    """Numbers with units; one that cannot be believed is left out and said so."""
    channels = max(each.channel for each in section.values) + 1
    combined = _combine(_scores(calls, section.tensor, channels, "none", model), section.combine)
    findings, remarks = [], []
    for each in section.values:
        value = float(combined[each.channel]) * each.scale + each.offset
        if not _is_believed(value, each):
            remarks.append(f"{each.name}: {value:.4g} {each.unit.value} is outside what can be believed; left out.")
            continue
        presence = Presence.PRESENT
        if each.present_above is not None and value <= each.present_above:
            presence = Presence.ABSENT
        findings.append(
            Finding(
                finding=each.finding.code,
                tracking_identifier=each.name,
                finding_site=each.finding_site.code if each.finding_site else None,
                measurements=(Measurement(each.concept.code, value, each.unit.code),),
                presence=presence,
                critical=each.critical,
            )
        )
    return Part(findings=tuple(findings), remarks=tuple(remarks))


def _is_believed(value: float, section: Value) -> bool:
    low = -np.inf if section.minimum is None else section.minimum
    high = np.inf if section.maximum is None else section.maximum
    return low <= value <= high


def embed(section: Embedding, calls: Sequence[Call], model: str) -> Part:
    """One vector, the mean of all calls."""
    vectors = [call.tensors[section.tensor].reshape(-1) for call in calls]
    if any(len(vector) != section.length for vector in vectors):
        raise Permanent(
            f"model {model}: output {section.tensor!r} has {len(vectors[0])} numbers, expected {section.length}"
        )
    return Part(embeddings={section.name: np.mean(vectors, axis=0).astype(np.float32)})


def write_text(section: TextOutput, calls: Sequence[Call], vocabulary: Sequence[str], model: str) -> Part:
    """Words of the model itself, those of several calls one below the other."""
    texts = []
    for call in calls:
        found = call.tensors[section.tensor].reshape(-1)
        if found.dtype.kind in "OUS":
            texts.append(section.joiner.join(_decoded(each) for each in found))
        elif vocabulary:
            texts.append(_words([int(number) for number in found], section, vocabulary, model))
        else:
            raise Permanent(f"model {model}: output {section.tensor!r} holds numbers, expected text or a vocabulary")
    return Part(text="\n".join(text.strip() for text in texts if text.strip()))


def _decoded(word: object) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _words(numbers: Sequence[int], section: TextOutput, vocabulary: Sequence[str], model: str) -> str:
    if section.end is not None and section.end in numbers:
        numbers = numbers[: numbers.index(section.end)]
    if any(not 0 <= number < len(vocabulary) for number in numbers):
        raise Permanent(
            f"model {model}: output {section.tensor!r} holds a number beyond the {len(vocabulary)} words of its "
            "vocabulary"
        )
    return section.joiner.join(vocabulary[number] for number in numbers).replace(SENTENCE_PIECE_SPACE, " ")
