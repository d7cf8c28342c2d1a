"""Which series feeds a model's input: hard requirements first, then a documented order. Pure.

Of the series that meet every requirement of an input the best is taken: thinner slices before thicker ones, more
slices before
fewer, the one received last before earlier ones, and at last the smaller Series Instance UID, so that the same series
always
give the same choice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.infer.manifest import Manifest
from node.infer.sections import Requirements
from node.select.rules import Condition, all_met, matching, none_of, not_matching, one_of, within
from node.select.stack import Stack, stack_of
from node.store.catalogue import StoredSeries


@dataclass(frozen=True)
class SeriesVerdict:
    """One series asked for one model input: each requirement with what was found, and its rank if all are met."""

    series_instance_uid: str
    conditions: tuple[Condition, ...]
    rank: str

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


def choose_inputs(manifest: Manifest, candidates: Sequence[StoredSeries]) -> tuple[InputChoice, ...]:
    """Choose a series for each input of a model among the candidates."""
    return tuple(_choose(each.name, each.requires, candidates) for each in manifest.inputs)


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
    header = series.header
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
    return (*conditions, *_check_stack(requires, stack_of(series)))


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


def _body_part(wanted: Sequence[str], found: Any) -> Condition:
    """Many scanners leave Body Part Examined empty: only a wrong one rules a series out."""
    condition = one_of("Body Part Examined", wanted, found)
    return condition if found else Condition(condition.name, f"{condition.wanted}, or absent", condition.found, True)


def _contrast(wanted: str, agent: Any) -> Condition:
    found = "with" if agent else "without"
    return Condition("contrast", wanted, found, found == wanted)


def _choose(name: str, requires: Requirements, candidates: Sequence[StoredSeries]) -> InputChoice:
    judged = sorted(((_order(each), _verdict(requires, each), each) for each in candidates), key=lambda item: item[0])
    chosen = next((series for _, verdict, series in judged if verdict.eligible), None)
    eligible_first = sorted(judged, key=lambda item: not item[1].eligible)
    return InputChoice(name, chosen, tuple(verdict for _, verdict, _ in eligible_first))


def _verdict(requires: Requirements, series: StoredSeries) -> SeriesVerdict:
    stack = stack_of(series)
    gap = f"{stack.slice_spacing_mm:.2f} mm apart" if stack.slice_spacing_mm is not None else "distance unknown"
    return SeriesVerdict(
        series.series_instance_uid, check_requirements(requires, series), f"{stack.slices} slices, {gap}"
    )


def _order(series: StoredSeries) -> tuple[Any, ...]:
    stack = stack_of(series)
    gap = stack.slice_spacing_mm if stack.slice_spacing_mm is not None else float("inf")
    return (round(gap, 2), -stack.slices, -series.last_received_at.timestamp(), series.series_instance_uid)
