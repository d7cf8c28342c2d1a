"""Does a candidate meet the requirements of a model input? Pure: every answer says what was wanted and what was found.

What no model is ever given, whatever its manifest says: localizers and scouts, secondary captures and screen shots,
reformats and projections, and objects that are no images (also those of this node).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from node.infer.requirements import Requirements
from node.select.candidates import Candidate
from node.select.rules import Condition, matching, none_of, not_matching, one_of, within
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
_BELOW_NEVER_SOP_CLASSES = tuple(f"{uid}." for uid in NEVER_SOP_CLASSES)
_BANNED = frozenset(value.casefold() for value in NEVER_IMAGE_TYPES)


def check_requirements(requires: Requirements, series: StoredSeries) -> tuple[Condition, ...]:
    """Every requirement of a model input that the manifest states, with the value wanted and the value found; and what
    no model is ever given.
    """
    candidate = Candidate(series, "", stack_of(series))
    return (*check_candidate(requires, candidate), *never_given(candidate))


def check_candidate(requires: Requirements, candidate: Candidate) -> tuple[Condition, ...]:
    """The requirements of a model input; also that the object is an image, where its SOP Class is not asked for."""
    header = candidate.series.header
    conditions = [one_of("Modality", requires.modality, header.get("Modality"))]
    for name, wanted, keyword in (
        ("SOP Class", requires.sop_class_uid, "SOPClassUID"),
        ("Scanning Sequence", requires.scanning_sequence, "ScanningSequence"),
        ("MR Acquisition Type", requires.mr_acquisition_type, "MRAcquisitionType"),
        ("View Position", requires.view_position, "ViewPosition"),
        ("Presentation Intent Type", requires.presentation_intent, "PresentationIntentType"),
    ):
        if wanted:
            conditions.append(one_of(name, wanted, header.get(keyword)))
    if requires.image_laterality:
        conditions.append(one_of("Image Laterality", requires.image_laterality, _laterality(header)))
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
    conditions += _check_acquisition(requires, header)
    conditions += _check_stack(requires, candidate.stack)
    return (*conditions, *_no_image(str(header.get("SOPClassUID", "")), requires.sop_class_uid))


def _check_acquisition(requires: Requirements, header: Mapping[str, Any]) -> list[Condition]:
    """The requirements on how the images were taken, as far as they are numbers."""
    conditions = []
    if requires.temporal_position is not None:
        wanted = (str(requires.temporal_position),)
        conditions.append(one_of("Temporal Position", wanted, header.get("TemporalPositionIdentifier")))
    for name, key, keyword, unit in (
        ("Echo Time", "echo_time_ms", "EchoTime", "ms"),
        ("Repetition Time", "repetition_time_ms", "RepetitionTime", "ms"),
        ("Inversion Time", "inversion_time_ms", "InversionTime", "ms"),
        ("b-value", "b_value", "DiffusionBValue", "s/mm2"),
        ("KVP", "kvp", "KVP", "kV"),
    ):
        lowest, highest = getattr(requires, f"minimum_{key}"), getattr(requires, f"maximum_{key}")
        if lowest is not None or highest is not None:
            conditions.append(within(name, lowest, highest, header.get(keyword), unit))
    return conditions


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


def never_given(candidate: Candidate) -> tuple[Condition, ...]:
    """What holds for every input of every model; only what is not met is shown."""
    header = candidate.series.header
    found = []
    if not _BANNED.isdisjoint(str(value).strip().casefold() for value in header.get("ImageType") or ()):
        types = none_of("Image Type", NEVER_IMAGE_TYPES, header.get("ImageType"))
        found.append(replace(types, wanted="no localizer, reformat, projection or screen shot"))
    described = not_matching("Series Description", NEVER_DESCRIPTIONS, header.get("SeriesDescription"))
    if not described.met:
        found.append(replace(described, wanted="no scout, localizer, dose report or screen shot"))
    return tuple(found)


def _no_image(sop_class: str, asked_for: Sequence[str]) -> tuple[Condition, ...]:
    """What is wrong with a SOP Class that holds no images, or none as they were acquired."""
    banned = sop_class in NEVER_SOP_CLASSES or sop_class.startswith(_BELOW_NEVER_SOP_CLASSES)
    if banned and sop_class not in asked_for:
        return (Condition("SOP Class", "an image as it was acquired", sop_class, False),)
    return ()


def _laterality(header: Mapping[str, Any]) -> Any:
    """Image Laterality, or that of the paired body part that the whole series shows."""
    return header.get("ImageLaterality") or header.get("Laterality")


def _body_part(wanted: Sequence[str], found: Any) -> Condition:
    """Many scanners leave Body Part Examined empty: only a wrong one rules a series out."""
    condition = one_of("Body Part Examined", wanted, found)
    return condition if found else Condition(condition.name, f"{condition.wanted}, or absent", condition.found, True)


def _contrast(wanted: str, agent: Any) -> Condition:
    found = "with" if agent else "without"
    return Condition("contrast", wanted, found, found == wanted)
