"""A TID 1500 document around its measurement groups: patient, evidence, observer, image library, comments."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr import element_bytes as write
from dicom_sr.evidence import Evidence
from dicom_sr.findings import Algorithm, Result, SourceImage
from dicom_sr.identity import device_uid
from dicom_sr.image_descriptors import describe_projection
from dicom_sr.instance import Kind, add_raw, code_item, new_instance
from dicom_sr.profile import REPORT_CLASS_UIDS, DestinationProfile


def _dcm(value: str, meaning: str) -> Code:
    return codes.concept(value, "DCM", meaning)


LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH = codes.concept("en-US", "RFC5646", "English (United States)")
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE_OBSERVER_UID = _dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = _dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = _dcm("121015", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER = _dcm("121016", "Device Observer Serial Number")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
MODALITY = _dcm("121139", "Modality")
FRAME_OF_REFERENCE_UID = _dcm("112227", "Frame of Reference UID")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")


@dataclass(frozen=True)
class Content:
    """What a report says, as content items.

    Parameters
    ----------
    title : Code
    groups : tuple of bytes
        Measurement groups, at least one.
    image_library : tuple of Dataset
        Headers of the images that it names too (TID 1600); empty for none.
    comments : tuple of str
        What concerns the images as a whole.
    impression : str
    """

    title: Code
    groups: tuple[bytes, ...]
    image_library: tuple[Dataset, ...] = ()
    comments: tuple[str, ...] = ()
    impression: str = ""


def write_report(
    result: Result,
    evidence: Evidence,
    profile: DestinationProfile,
    kind: Kind,
    content: Content,
    referenced: Sequence[SourceImage],
) -> Dataset:
    """The report: complete, preliminary, unverified. Its content is bytes, which are parsed when they are looked at.

    Parameters
    ----------
    result : Result
    evidence : Evidence
        For patient and study, and the image library.
    profile : DestinationProfile
    kind : Kind
    content : Content
    referenced : sequence of SourceImage
        Every instance that the report is based on, of this study and of others.
    """
    dataset = new_instance(
        result, evidence, profile, kind, REPORT_CLASS_UIDS[profile.report_class], names_highdicom=True
    )
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "CONTINUOUS"
    dataset.ConceptNameCodeSequence = [code_item(content.title)]
    dataset.PerformedProcedureCodeSequence = []
    dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    dataset.ContentTemplateSequence = [template]
    studies = _by_study(referenced, result)
    own = studies.pop(result.study_instance_uid)
    raw = [write.raw_sequence("CurrentRequestedProcedureEvidenceSequence", own)]
    if studies:
        raw.append(write.raw_sequence("PertinentOtherEvidenceSequence", b"".join(studies.values())))
    add_raw(dataset, *raw, write.raw_sequence("ContentSequence", b"".join(_tree(result, evidence, content))))
    return dataset


def references_to(datasets: Iterable[Dataset]) -> list[SourceImage]:
    """Data sets as what evidence says of them."""
    return [
        SourceImage(str(each.SOPClassUID), str(each.SOPInstanceUID), str(each.SeriesInstanceUID)) for each in datasets
    ]


def algorithm_items(result: Result, parameters: Iterable[tuple[str, str]] = ()) -> bytes:
    """TID 4019 of the algorithm, with further parameters."""
    algorithm = result.algorithm
    return b"".join(
        [
            items.text(items.MODIFIER, ALGORITHM_NAME, algorithm.name),
            items.text(items.MODIFIER, ALGORITHM_VERSION, algorithm.version),
            items.text(items.MODIFIER, ALGORITHM_MANUFACTURER, algorithm.manufacturer),
            *(
                items.text(items.MODIFIER, ALGORITHM_PARAMETERS, f"{name} = {value}")
                for name, value in (*algorithm.parameters, *parameters)
            ),
            items.code(items.MODIFIER, ALGORITHM_FAMILY, codes.check(algorithm.family)),
        ]
    )


def _by_study(referenced: Sequence[SourceImage], result: Result) -> dict[str, bytes]:
    """The items of an evidence sequence (PS3.3 C.17.2) by study, each instance once."""
    studies: dict[str, dict[str, dict[str, bytes]]] = {}
    for each in referenced:
        series = studies.setdefault(each.study_instance_uid or result.study_instance_uid, {})
        instances = series.setdefault(each.series_instance_uid or result.series_instance_uid, {})
        if each.sop_instance_uid not in instances:
            instances[each.sop_instance_uid] = write.item(
                write.text("ReferencedSOPClassUID", "UI", each.sop_class_uid),
                write.text("ReferencedSOPInstanceUID", "UI", each.sop_instance_uid),
            )
    return {
        study: write.item(
            write.sequence(
                "ReferencedSeriesSequence",
                *(
                    write.item(
                        write.sequence("ReferencedSOPSequence", *instances.values()),
                        write.text("SeriesInstanceUID", "UI", uid),
                    )
                    for uid, instances in series.items()
                ),
            ),
            write.text("StudyInstanceUID", "UI", study),
        )
        for study, series in studies.items()
    }


def _tree(result: Result, evidence: Evidence, content: Content) -> list[bytes]:
    """The children of the root, in the order of TID 1500."""
    modality = str(evidence.images[0].get("Modality", ""))
    procedure = codes.PROCEDURES_REPORTED.get(modality, codes.PROCEDURE_OF_OTHER_MODALITY)
    tree = [
        items.code(items.MODIFIER, LANGUAGE, ENGLISH),
        *_device_observer(result.algorithm),
        items.code(items.MODIFIER, PROCEDURE_REPORTED, procedure),
    ]
    if content.image_library:
        tree.append(_image_library(evidence, content.image_library, modality))
    tree.append(items.container(items.CONTAINS, IMAGING_MEASUREMENTS, content.groups))
    said = [items.text(items.CONTAINS, codes.COMMENT, comment) for comment in content.comments]
    said += [items.text(items.CONTAINS, codes.IMPRESSION, content.impression)] if content.impression else []
    return [*tree, *([items.container(items.CONTAINS, codes.QUALITATIVE_EVALUATIONS, said)] if said else [])]


def _device_observer(algorithm: Algorithm) -> list[bytes]:
    """The algorithm as device observer (TID 1002, 1004)."""
    return [
        items.code(items.CONTEXT, OBSERVER_TYPE, codes.DEVICE),
        items.uid(items.CONTEXT, DEVICE_OBSERVER_UID, device_uid(algorithm)),
        items.text(items.CONTEXT, DEVICE_OBSERVER_NAME, algorithm.name),
        items.text(items.CONTEXT, DEVICE_OBSERVER_MANUFACTURER, algorithm.manufacturer),
        items.text(items.CONTEXT, DEVICE_OBSERVER_MODEL_NAME, algorithm.identifier),
        items.text(items.CONTEXT, DEVICE_OBSERVER_SERIAL_NUMBER, algorithm.version),
    ]


def _image_library(evidence: Evidence, headers: Sequence[Dataset], modality: str) -> bytes:
    """TID 1600 with one group: what all images share (TID 1602) once, then each image by itself, a projection with
    what it shows.

    Rows, columns, spacing, position and orientation would be 14 numbers an image, which readers of measurements then
    take for measurements.
    """
    shared = []
    if modality in codes.MODALITIES:
        shared.append(items.code(items.ACQUISITION, MODALITY, codes.MODALITIES[modality]))
    if evidence.frame_of_reference_uid:
        shared.append(items.uid(items.ACQUISITION, FRAME_OF_REFERENCE_UID, evidence.frame_of_reference_uid))
    said = {} if evidence.in_space else {str(each.SOPInstanceUID): describe_projection(each) for each in headers}
    images = []
    for image in evidence.images:
        uid = str(image.SOPInstanceUID)
        images.append(
            items.image(items.CONTAINS, codes.SOURCE, str(image.SOPClassUID), uid, children=said.get(uid, ()))
        )
    group = items.container(items.CONTAINS, IMAGE_LIBRARY_GROUP, [*shared, *images], continuity="SEPARATE")
    return items.container(items.CONTAINS, IMAGE_LIBRARY, [group], continuity="SEPARATE")
