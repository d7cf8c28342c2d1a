"""Which series feeds a model's input: hard requirements first, then a documented order. Pure.

Of the candidates that meet every requirement of an input the best is taken. `ORDER` says what is better, the most
important first; the smaller Series Instance UID ends a tie, so that the same study always gives the same choice.
A model with several inputs never gets the same images twice: the input with the fewest candidates chooses first.

What no model is ever given: localizers and scouts, secondary captures and screen shots, reformats and projections,
and objects that are no images (also those of this node).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from node.infer.manifest import Manifest
from node.infer.requirements import Requirements
from node.select.candidates import Candidate, candidates_of
from node.select.rules import Condition, all_met, matching, none_of, not_matching, one_of, within
from node.select.stack import Stack, stack_of
from node.store.catalogue import StoredSeries

NEVER_IMAGE_TYPES = (
    "LOCALIZER",
    "SCOUT",
    "TOPOGRAM",
    "SCREEN SAVE",
    "SCREENSHOT",
    "MPR",
    "CSA MPR",
    "REFORMATTED",
    "RESAMPLED",
    "CSA RESAMPLED",
    "PROJECTION IMAGE",
    "MIP",
    "MINIP",
    "VOLUME RENDER",
    "VRT",
)
NEVER_DESCRIPTIONS = r"\b(localizer|localiser|scout|topogram|surview|dose report|screen ?save|patient protocol)\b"
NEVER_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, and its multi-frame kin below it
    "1.2.840.10008.5.1.4.1.1.11",  # Presentation States
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66",  # Raw Data, Registration, Segmentation
    "1.2.840.10008.5.1.4.1.1.88",  # Structured Reports, Key Objects
    "1.2.840.10008.5.1.4.1.1.104",  # Encapsulated documents
    "1.2.840.10008.5.1.4.1.1.481",  # Radiotherapy
)
_SHARP_KERNEL = re.compile(r"^(b[67-9]\d|br[67-9]\d|bl[67-9]\d|hr[67-9]\d|fc[58]\d|y[a-z]|lung|bone|edge|sharp|detail)")


@dataclass(frozen=True)
class SeriesVerdict:
    """One candidate asked for one model input: each requirement with what was found, and its rank if all are met.

    `part` names the part of a series that was split; it is empty for a whole series.
    """

    series_instance_uid: str
    conditions: tuple[Condition, ...]
    rank: str
    part: str = ""
    is_chosen: bool = False

    @property
    def eligible(self) -> bool:
        """Whether every requirement is met."""
        return all_met(self.conditions)


@dataclass(frozen=True)
class InputChoice:
    """What was chosen for one input: the series, or None, with the verdict on every candidate (best first)."""

    input_name: str
    chosen: StoredSeries | None
    verdicts: tuple[SeriesVerdict, ...]


@dataclass(frozen=True)
class Merit:
    """One thing that makes a candidate better: smaller values win. `say` tells people what was found."""

    name: str
    value: Callable[[Candidate], float]
    say: Callable[[Candidate], str]


def choose_inputs(manifest: Manifest, series: Sequence[StoredSeries]) -> tuple[InputChoice, ...]:
    """Choose a series, or a part of one, for each input of a model among the series given."""
    return choose_among(manifest, candidates_of(series))


def choose_among(manifest: Manifest, candidates: Sequence[Candidate]) -> tuple[InputChoice, ...]:
    """The same for candidates that were made before."""
    ordered = sorted(candidates, key=_order)
    judged = {
        each.name: [(candidate, check_candidate(each.requires, candidate)) for candidate in ordered]
        for each in manifest.inputs
    }
    chosen: dict[str, Candidate] = {}
    for name in sorted(judged, key=lambda name: sum(all_met(conditions) for _, conditions in judged[name])):
        taken = list(chosen.values())
        for candidate, conditions in judged[name]:
            if all_met(conditions) and not any(candidate is one for one in taken):
                chosen[name] = candidate
                break
    return tuple(_choice(each.name, judged[each.name], chosen.get(each.name)) for each in manifest.inputs)


def input_digest(choices: Sequence[InputChoice]) -> str:
    """SHA-256 (hex) that names the input set: input names, SOP Instance UIDs and the digests of their content."""
    digest = hashlib.sha256()
    for choice in sorted(choices, key=lambda choice: choice.input_name):
        digest.update(f"input {choice.input_name}\n".encode())
        members = choice.chosen.instances if choice.chosen else ()
        for uid, sha256 in sorted((each.sop_instance_uid, each.sha256) for each in members):
            digest.update(f"{uid} {sha256}\n".encode())
    return digest.hexdigest()


def check_requirements(requires: Requirements, series: StoredSeries) -> tuple[Condition, ...]:
    """Every requirement of a model input that the manifest states, with the value wanted and the value found."""
    return check_candidate(requires, Candidate(series, "", stack_of(series)))


def check_candidate(requires: Requirements, candidate: Candidate) -> tuple[Condition, ...]:
    """The requirements of a model input, and what no model is ever given."""
    header = candidate.series.header
    conditions = [one_of("Modality", requires.modality, header.get("Modality"))]
    for name, wanted, keyword in (
        ("SOP Class", requires.sop_class_uid, "SOPClassUID"),
        ("Scanning Sequence", requires.scanning_sequence, "ScanningSequence"),
        ("MR Acquisition Type", requires.mr_acquisition_type, "MRAcquisitionType"),
    ):
        if wanted:
            conditions.append(one_of(name, wanted, header.get(keyword)))
    if requires.body_part_examined:
        conditions.append(_body_part(requires.body_part_examined, header.get("BodyPartExamined")))
    if requires.series_description:
        conditions.append(matching("Series Description", requires.series_description, header.get("SeriesDescription")))
    if requires.series_description_excludes:
        expression = requires.series_description_excludes
        conditions.append(not_matching("Series Description", expression, header.get("SeriesDescription")))
    if requires.image_type_excludes:
        conditions.append(none_of("Image Type", requires.image_type_excludes, header.get("ImageType")))
    if requires.contrast != "any":
        conditions.append(_contrast(requires.contrast, header.get("ContrastBolusAgent")))
    conditions += _check_stack(requires, candidate.stack)
    return (*conditions, *(each for each in _never(candidate) if not each.met))


def _check_stack(requires: Requirements, stack: Stack) -> list[Condition]:
    """The requirements on the number, place and size of the slices."""
    conditions = [within("slices", requires.minimum_slices, requires.maximum_slices, stack.slices)]
    if requires.orientation:
        conditions.append(one_of("plane", requires.orientation, stack.plane))
    for name, lowest, highest, found in (
        ("Slice Thickness", None, requires.maximum_slice_thickness_mm, stack.slice_thickness_mm),
        ("distance of slices", None, requires.maximum_slice_spacing_mm, stack.slice_spacing_mm),
        ("Pixel Spacing", None, requires.maximum_pixel_spacing_mm, stack.pixel_spacing_mm),
        ("extent along the slices", requires.minimum_slice_coverage_mm, None, stack.slice_coverage_mm),
        ("extent of an image", requires.minimum_in_plane_coverage_mm, None, stack.in_plane_coverage_mm),
    ):
        if lowest is not None or highest is not None:
            conditions.append(within(name, lowest, highest, found, "mm"))
    return conditions


def _never(candidate: Candidate) -> tuple[Condition, ...]:
    """What holds for every input of every model; only what is not met is shown."""
    header = candidate.series.header
    sop_class = str(header.get("SOPClassUID", ""))
    banned = any(sop_class == uid or sop_class.startswith(f"{uid}.") for uid in NEVER_SOP_CLASSES)
    type_found = none_of("Image Type", NEVER_IMAGE_TYPES, header.get("ImageType"))
    described = not_matching("Series Description", NEVER_DESCRIPTIONS, header.get("SeriesDescription"))
    return (
        replace(type_found, wanted="no localizer, reformat, projection or screen shot"),
        replace(described, wanted="no scout, localizer, dose report or screen shot"),
        Condition("SOP Class", "an image as it was acquired", sop_class or "absent", not banned),
    )


def _body_part(wanted: Sequence[str], found: Any) -> Condition:
    """Many scanners leave Body Part Examined empty: only a wrong one rules a series out."""
    condition = one_of("Body Part Examined", wanted, found)
    return condition if found else Condition(condition.name, f"{condition.wanted}, or absent", condition.found, True)


def _contrast(wanted: str, agent: Any) -> Condition:
    found = "with" if agent else "without"
    return Condition("contrast", wanted, found, found == wanted)


def _choice(
    name: str, judged: Sequence[tuple[Candidate, tuple[Condition, ...]]], chosen: Candidate | None
) -> InputChoice:
    verdicts = [
        SeriesVerdict(
            each.series.series_instance_uid, conditions, describe_rank(each), each.part, is_chosen=each is chosen
        )
        for each, conditions in judged
    ]
    return InputChoice(
        name, chosen.series if chosen else None, tuple(sorted(verdicts, key=lambda verdict: not verdict.eligible))
    )


def describe_rank(candidate: Candidate) -> str:
    """What `ORDER` finds in a candidate, for people."""
    return ", ".join(said for said in (merit.say(candidate) for merit in ORDER) if said)


def _order(candidate: Candidate) -> tuple[Any, ...]:
    values = tuple(merit.value(candidate) for merit in ORDER)
    return (*values, candidate.series.series_instance_uid, candidate.part)


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else round(value, 2)


def _is_derived(candidate: Candidate) -> bool:
    return "DERIVED" in [str(value).upper() for value in candidate.series.header.get("ImageType") or ()]


def _kernel(candidate: Candidate) -> str:
    found = candidate.series.header.get("ConvolutionKernel") or ""
    return str(found[0] if isinstance(found, list | tuple) and found else found)


def _has_agent(candidate: Candidate) -> bool:
    return bool(candidate.series.header.get("ContrastBolusAgent"))


def _mm(value: float | None, what: str) -> str:
    return f"{value:.2f} mm {what}" if value is not None else ""


ORDER: tuple[Merit, ...] = (
    Merit("original before derived", _is_derived, lambda c: "derived" if _is_derived(c) else ""),
    Merit(
        "small distance of slices",
        lambda c: _or_infinite(c.stack.slice_spacing_mm),
        lambda c: _mm(c.stack.slice_spacing_mm, "apart") or "distance unknown",
    ),
    Merit(
        "thin slices",
        lambda c: _or_infinite(c.stack.slice_thickness_mm),
        lambda c: _mm(c.stack.slice_thickness_mm, "thick"),
    ),
    Merit(
        "smooth kernel before sharp",
        lambda c: bool(_SHARP_KERNEL.match(_kernel(c).casefold())),
        lambda c: f"kernel {_kernel(c)}" if _kernel(c) else "",
    ),
    Merit("without contrast before with", _has_agent, lambda c: "contrast" if _has_agent(c) else ""),
    Merit(
        "fine matrix",
        lambda c: _or_infinite(c.stack.pixel_spacing_mm),
        lambda c: _mm(c.stack.pixel_spacing_mm, "pixels"),
    ),
    Merit("many slices", lambda c: -c.stack.slices, lambda c: f"{c.stack.slices} slices"),
    Merit("received last", lambda c: -c.series.last_received_at.timestamp(), lambda c: ""),
)
"""What makes one candidate better than another, the most important first."""
