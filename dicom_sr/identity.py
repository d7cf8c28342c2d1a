"""UIDs that follow from what they name: the same Result gives the same UIDs, on every machine and retry.

Version 5 UUIDs (RFC 9562) under the root 2.25 (PS3.5 B.2). Parts are joined with a separator that no UID,
digest or identifier contains.
"""

from uuid import UUID, uuid5

from dicom_sr.findings import Algorithm, Result

NAMESPACE = UUID("5d0f3c1e-6f64-5b52-9a53-0b8a3f2c7d11")
"""Never to be changed: every UID ever written derives from it."""

IMPLEMENTATION_CLASS_UID = "2.25.238724313622870776342011422389541326254"
"""Implementation Class UID (PS3.7 D.3.3.2) in the file meta information of what this library writes."""
IMPLEMENTATION_VERSION_NAME = "OVERREAD_SR_1"


def derived_uid(*parts: str) -> str:
    """A UID of at most 44 characters that is always the same for the same parts, in the same order."""
    return f"2.25.{uuid5(NAMESPACE, chr(0x1F).join(parts)).int}"


def uid_for(result: Result, role: str) -> str:
    """The UID that something plays in a Result.

    Parameters
    ----------
    result : Result
    role : str
        ``segmentation``, ``segmentation-series``, ``report``, ``report-series``, ``tracking:<tracking
        identifier>`` and the like. An object that depends on the destination names its profile too
        (``report@conservative``).
    """
    return derived_uid(
        result.study_instance_uid,
        result.series_instance_uid,
        result.algorithm.identifier,
        result.algorithm.digest,
        result.input_digest,
        str(result.revision),
        role,
    )


def tracking_uid(result: Result, tracking_identifier: str) -> str:
    """Tracking Unique Identifier (112040, DCM): the same in every SEG and SR of the Result."""
    return uid_for(result, f"tracking:{tracking_identifier}")


def device_uid(algorithm: Algorithm) -> str:
    """Device UID: one for each version and digest of an algorithm, wherever it runs."""
    return derived_uid("device", algorithm.identifier, algorithm.version, algorithm.digest)
