"""A Result for a destination: the objects that its profile wants, in the order of their delivery."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from dicom_sr.cad_tree import says_everything
from dicom_sr.chest_cad import encode_chest_cad
from dicom_sr.encapsulated_pdf import encode_document
from dicom_sr.errors import NothingToShow
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Result
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.mammography_cad import encode_mammography_cad
from dicom_sr.measurement_report import encode_measurement_report, has_report
from dicom_sr.not_analysed import encode_not_analysed
from dicom_sr.parametric_map import encode_parametric_maps
from dicom_sr.part10 import part10_parts, pixel_bytes, to_part10
from dicom_sr.presentation_state import encode_presentation_states
from dicom_sr.profile import CAD_REPORTS, CONSERVATIVE, REPORTS, DestinationProfile, Role
from dicom_sr.secondary_capture import encode_secondary_capture
from dicom_sr.segment_numbering import SegmentNumbering, number_segments
from dicom_sr.segmentation import encode_fractions, encode_segmentations
from dicom_sr.structure_set import encode_structure_set

MEGABYTE = 1_000_000


@dataclass(frozen=True, eq=False)
class RenderedObject:
    """One object of a Result.

    Parameters
    ----------
    role : Role
    dataset : Dataset
        With file meta information, ready to be written.
    """

    role: Role
    dataset: Dataset

    def to_bytes(self) -> bytes:
        """The object in the DICOM File Format (PS3.10 7); the same Result and profile give the same bytes."""
        return to_part10(self.dataset)

    def parts(self) -> Iterator[bytes]:
        """The same in consecutive parts, for a file: large objects are never in memory as a whole."""
        return part10_parts(self.dataset)


@dataclass(frozen=True, eq=False)
class Rendering:
    """What every encoder is given.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    profile : DestinationProfile
    evidence : Evidence
    numbering : SegmentNumbering
    done : tuple of RenderedObject
        What is rendered already.
    """

    result: Result
    sources: Sequence[Dataset]
    profile: DestinationProfile
    evidence: Evidence
    numbering: SegmentNumbering
    done: tuple[RenderedObject, ...] = ()

    def having(self, *roles: Role) -> list[Dataset]:
        """The data sets of these roles that are rendered already."""
        return [each.dataset for each in self.done if each.role in roles]


Encoder = Callable[[Rendering], "Dataset | Sequence[Dataset] | None"]


def render(
    result: Result, sources: Sequence[Dataset], profile: DestinationProfile = CONSERVATIVE
) -> list[RenderedObject]:
    """All objects of a Result for a destination, each after those that it refers to.

    An object larger than the profile's limits counts as refused: the next form of the fallback order takes its place.
    So does a Secondary Capture that would stand in for one and cannot, since the images' pixels are not at hand.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order; never changed.
    profile : DestinationProfile

    Raises
    ------
    SourceMismatch, InvalidResult
    NothingToShow
        The profile wants a Secondary Capture, and the images came without pixels that can be shown.
    """
    if result.not_analysed is not None:
        return [RenderedObject(Role.NOT_ANALYSED, encode_not_analysed(result, sources, profile))]
    rendering = Rendering(result, sources, profile, check_evidence(result, sources), number_segments(result))
    form, refused, too_large = profile, set[str](), set[Role]()
    while True:
        try:
            rendered = _render(replace(rendering, profile=form))
            larger = [each for each in rendered if _is_too_large(each.dataset, profile)]
        except NothingToShow:
            if Role.SECONDARY_CAPTURE in profile.roles:
                raise
            rendered, larger = [], []
            refused.add(profile.sop_class_uid(Role.SECONDARY_CAPTURE))
        too_large |= {each.role for each in larger}
        # fractions have the SOP class of the Segmentation of record, which may well be small enough
        refused |= {str(each.dataset.SOPClassUID) for each in larger if each.role is not Role.FRACTIONAL_SEGMENTATION}
        smaller = profile.without(refused, too_large)
        if smaller is None or smaller == form:
            return rendered
        form = smaller


def file_names(rendered: Sequence[RenderedObject]) -> list[str]:
    """A file name for each object: its role; from the second of a role on with a number."""
    counts: dict[Role, int] = {}
    names = []
    for each in rendered:
        counts[each.role] = counts.get(each.role, 0) + 1
        names.append(each.role.value + (f"-{counts[each.role]}" if counts[each.role] > 1 else "") + ".dcm")
    return names


def _render(rendering: Rendering) -> list[RenderedObject]:
    """The objects in the order of `ENCODERS`, which is that of their delivery."""
    for role, encode in ENCODERS.items():
        if role not in rendering.profile.roles or (role in REPORTS and _is_said_by_cad(rendering)):
            continue
        encoded = encode(rendering)
        datasets = [] if encoded is None else [encoded] if isinstance(encoded, Dataset) else list(encoded)
        done = (*rendering.done, *(RenderedObject(role, dataset) for dataset in datasets))
        rendering = replace(rendering, done=done)
    return list(rendering.done)


def _is_said_by_cad(rendering: Rendering) -> bool:
    """Whether the profile wants no other report beside a CAD SR, and there is one that says all there is to say."""
    written = rendering.having(*CAD_REPORTS) if rendering.profile.report_only_without_cad else []
    return bool(written) and says_everything(written, rendering.result)


def _is_too_large(dataset: Dataset, profile: DestinationProfile) -> bool:
    frames, size = int(dataset.get("NumberOfFrames") or 1), pixel_bytes(dataset)
    return (0 < profile.maximum_frames < frames) or (0 < profile.maximum_megabytes * MEGABYTE < size)


def _segmentations(rendering: Rendering) -> Sequence[Dataset]:
    r = rendering
    return encode_segmentations(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


def _fractions(r: Rendering) -> Dataset | None:
    return encode_fractions(r.result, r.sources, r.profile, evidence=r.evidence)


def _report(role: Role) -> Encoder:
    def encode(r: Rendering) -> Dataset | None:
        if not has_report(r.result, r.numbering, role):
            return None
        segmentations = r.having(Role.SEGMENTATION)
        return encode_measurement_report(
            r.result, r.sources, segmentations, r.profile, role=role, evidence=r.evidence, numbering=r.numbering
        )

    return encode


def _mammography_cad(r: Rendering) -> Dataset | None:
    return encode_mammography_cad(r.result, r.sources, r.profile, evidence=r.evidence)


def _chest_cad(r: Rendering) -> Dataset | None:
    return encode_chest_cad(r.result, r.sources, r.profile, evidence=r.evidence)


def _parametric_maps(r: Rendering) -> Sequence[Dataset]:
    return encode_parametric_maps(r.result, r.sources, r.profile, evidence=r.evidence)


def _structure_set(r: Rendering) -> Dataset | None:
    return encode_structure_set(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


def _presentation_states(r: Rendering) -> Sequence[Dataset]:
    return encode_presentation_states(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


def _secondary_capture(r: Rendering) -> Dataset:
    return encode_secondary_capture(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


def _document(r: Rendering) -> Dataset | None:
    return encode_document(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


def _key_objects(r: Rendering) -> Dataset | None:
    return encode_key_objects(r.result, r.sources, r.profile, evidence=r.evidence, numbering=r.numbering)


ENCODERS: Mapping[Role, Encoder] = {
    Role.SEGMENTATION: _segmentations,
    Role.FRACTIONAL_SEGMENTATION: _fractions,
    Role.MAMMOGRAPHY_CAD: _mammography_cad,
    Role.CHEST_CAD: _chest_cad,
    Role.REPORT: _report(Role.REPORT),
    Role.REPORT_WITHOUT_PLACE: _report(Role.REPORT_WITHOUT_PLACE),
    Role.KEY_OBJECTS: _key_objects,
    Role.PARAMETRIC_MAP: _parametric_maps,
    Role.STRUCTURE_SET: _structure_set,
    Role.PRESENTATION_STATE: _presentation_states,
    Role.SECONDARY_CAPTURE: _secondary_capture,
    Role.DOCUMENT: _document,
}
"""How each role is written, in the order of delivery."""
