"""Why a series cannot be made into a volume: the stable codes of `NotAnalysed` in this room."""

from enum import StrEnum

from node.errors import NotAnalysed


class Reason(StrEnum):
    """The codes, as shown by `overread explain` and `overread status`."""

    NOT_DICOM = "not-dicom"  # no Part 10 file, or a data set that cannot be read
    SEVERAL_SERIES = "several-series"  # more than one Series Instance UID
    UNSUPPORTED_MODALITY = "unsupported-modality"  # another SOP Class than CT, MR or PT
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"  # no decoder
    UNSUPPORTED_PIXEL_FORMAT = "unsupported-pixel-format"  # colour, floating point, odd bit depths, too large
    NO_PIXEL_DATA = "no-pixel-data"
    TRUNCATED_PIXEL_DATA = "truncated-pixel-data"  # less than the header says
    UNDECODABLE_PIXEL_DATA = "undecodable-pixel-data"  # a code stream that contradicts the header or is damaged
    MISSING_GEOMETRY = (
        "missing-geometry"  # position, orientation, spacing, size or frame of reference absent or unusable
    )
    MIXED_SIZE = "mixed-size"  # rows, columns or pixel spacing differ
    MIXED_FRAME_OF_REFERENCE = "mixed-frame-of-reference"
    MIXED_ORIENTATION = "mixed-orientation"
    TOO_FEW_SLICES = "too-few-slices"
    DUPLICATE_POSITION = "duplicate-position"
    GAP_IN_STACK = "gap-in-stack"
    UNEVEN_SPACING = "uneven-spacing"
    NO_UPTAKE_VALUE = "no-uptake-value"  # PET without what a standardised uptake value needs
    GANTRY_TILT = "gantry-tilt"  # slices are shifted sideways by more than a gantry can tilt


def refusal(reason: Reason, message: str) -> NotAnalysed:
    """The exception for `reason`; `message` says what was found and what is wanted, without patient data."""
    return NotAnalysed(reason.value, message)
