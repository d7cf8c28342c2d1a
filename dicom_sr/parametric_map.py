"""Parametric Maps (PS3.3 A.75) of the maps of a Result: 32-bit floating point, on the source grid, all slices."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from dicom_sr import codes, provenance
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Map, Result
from dicom_sr.instance import (
    Kind,
    add_raw,
    code_item,
    copy_compression,
    new_instance,
    refer_to_series,
    set_laterality,
    set_pixels,
    set_place,
)
from dicom_sr.multiframe import Frame, add_functional_groups, slice_order
from dicom_sr.pixels import native_frames
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.segment_description import content_creator, content_description

PARAMETRIC_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.30"
MAP = Kind(Role.PARAMETRIC_MAP, "OT", "map")
IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]


def encode_parametric_maps(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
) -> list[Dataset]:
    """One Parametric Map for each map, in one series.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    profile : DestinationProfile
    evidence : Evidence, optional
        Given by a caller that has it already.

    Raises
    ------
    SourceMismatch
    """
    evidence = evidence or check_evidence(result, sources)
    return [_encode(result, evidence, profile, each, number) for number, each in enumerate(result.maps, 1)]


def _encode(result: Result, evidence: Evidence, profile: DestinationProfile, values: Map, number: int) -> Dataset:
    dataset = new_instance(result, evidence, profile, MAP, PARAMETRIC_MAP_STORAGE, instance_number=number)
    first = evidence.images[0]
    dataset.ImageType = IMAGE_TYPE
    dataset.PixelPresentation = "MONOCHROME"
    dataset.ContentQualification = "RESEARCH" if result.not_for_clinical_use else "PRODUCT"
    dataset.ContentLabel = "AI_MAP"
    dataset.ContentDescription = f"{provenance.clean_text(values.name)}. {content_description(result)}"[:64]
    dataset.ContentCreatorName = content_creator(result)
    set_place(dataset, evidence)
    set_laterality(dataset, evidence)
    dataset.BurnedInAnnotation = dataset.RecognizableVisualFeatures = "NO"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = []
    copy_compression(dataset, first)
    refer_to_series(dataset, evidence)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = first.Rows, first.Columns, 32
    order = slice_order(evidence)
    if evidence.in_space:  # along the normal: OHIF 3.13 does not ask where frames lie, and takes them for ascending
        order.reverse()
    per_frame = add_functional_groups(
        dataset, evidence, [Frame(index) for index in order], codes.UNSPECIFIED_CALCULATION
    )
    _describe_values(dataset.SharedFunctionalGroupsSequence[0], values)
    add_raw(dataset, per_frame)

    def frame(position: int) -> np.ndarray:
        return np.asarray(values.values[order[position]], "<f4")

    set_pixels(dataset, native_frames(len(order), frame, values.values[0].size * 4), "FloatPixelData")
    return dataset


def _describe_values(shared: Dataset, values: Map) -> None:
    """What the numbers are: real world values are the stored ones; the window spans them."""
    lowest, highest = value_range(values.values)
    window = Dataset()
    window.WindowCenter = DS((lowest + highest) / 2, auto_format=True)
    window.WindowWidth = DS(highest - lowest, auto_format=True)
    window.VOILUTFunction = "LINEAR_EXACT"  # LINEAR takes no width below 1 (PS3.3 C.11.2.1.2)
    shared.FrameVOILUTSequence = [window]
    identity = Dataset()
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = 0, 1, "US"
    shared.PixelValueTransformationSequence = [identity]
    kind = Dataset()
    kind.FrameType = IMAGE_TYPE
    shared.ParametricMapFrameTypeSequence = [kind]
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = [code_item(codes.QUANTITY)]
    quantity.ConceptCodeSequence = [code_item(codes.check(values.quantity))]
    mapping = Dataset()
    mapping.LUTLabel = provenance.clean_text(values.name)[:16]
    mapping.LUTExplanation = provenance.clean_text(values.name)[:64]
    mapping.DoubleFloatRealWorldValueFirstValueMapped = lowest
    mapping.DoubleFloatRealWorldValueLastValueMapped = highest
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, 1.0
    mapping.MeasurementUnitsCodeSequence = [code_item(codes.check(values.unit))]
    mapping.QuantityDefinitionSequence = [quantity]
    shared.RealWorldValueMappingSequence = [mapping]


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest number of a map, slice by slice, what is no number left out; never empty."""
    finite = [plane[np.isfinite(plane)] for plane in values]
    lowest = min((float(plane.min()) for plane in finite if plane.size), default=0.0)
    highest = max((float(plane.max()) for plane in finite if plane.size), default=1.0)
    return (lowest, highest) if highest > lowest else (lowest, lowest + 1.0)
