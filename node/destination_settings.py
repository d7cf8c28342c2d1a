"""`[[destinations]]`: where results go, one class for each `kind`; without `kind` it is a DICOM archive."""

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from node.settings_types import AeTitle, Name, Port, Section

PatientField = Literal["patient_id", "patient_name", "birth_date", "sex", "accession_number"]
"""What JSON may say about a patient."""

_HOURS = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$")


class Tls(Section):
    """`tls` of a destination: TLS 1.2 or later; the certificate of the destination is always checked."""

    ca_file: Path | None = Field(
        None, description="Certificates of the authorities to trust (PEM); without it those of the system."
    )
    certificate_file: Path | None = Field(None, description="Our client certificate with its chain (PEM).")
    key_file: Path | None = Field(None, description="Key of our client certificate (PEM, without passphrase).")
    server_name: str = Field(
        "", description="Name that the destination's certificate must be for; empty means the host of the destination."
    )

    @model_validator(mode="after")
    def _certificate_has_key(self) -> "Tls":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together: give both or none")
        return self


class AnyDestination(Section):
    """What all kinds of destination have."""

    name: Name = Field(description="Unique name.")
    connections: int = Field(1, ge=1, le=16, description="Deliveries at once; each study keeps its order.")
    hours: str = Field(
        "",
        description='When results are sent, in local time, e.g. "18:00-07:00"; empty means always. A delivery that has '
        "begun is finished.",
    )

    @field_validator("hours")
    @classmethod
    def _hours_are_a_span(cls, hours: str) -> str:
        if hours and not _HOURS.match(hours):
            raise ValueError('expected a span of the day such as "18:00-07:00"')
        return hours

    @property
    def span(self) -> tuple[time, time] | None:
        """`hours` as two times of the day; None when it is always open."""
        found = _HOURS.match(self.hours)
        if not found:
            return None
        first, second, third, fourth = map(int, found.groups())
        return time(first, second), time(third, fourth)


class ObjectDestination(AnyDestination):
    """What all destinations that take DICOM objects have."""

    profile: str = Field(
        "conservative",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        description="Which objects it gets, in which flavour: `conservative`, `ohif`, `slicer`, `weasis`, "
        "`mammography-cad`, `labelmap`, `legacy`, or the name of a file in `profiles.paths`.",
    )
    retract: bool = Field(
        False,
        description="When a later result replaces one that it has, send a rejection note (IHE IOCM, a Key Object "
        "Selection) for the old objects behind the new ones.",
    )
    send_not_analysed: bool = Field(
        False,
        description="Send a small report that says why, when a study that a route wanted could not be analysed.",
    )


class Destination(ObjectDestination):
    """`kind = "dimse"`: a DICOM archive, by C-STORE."""

    kind: Literal["dimse"] = Field("dimse", description="How results are sent: C-STORE.")
    ae_title: AeTitle = Field(description="Called AE title of the destination.")
    host: str = Field(min_length=1, description="Host name or address.")
    port: Port = Field(description="TCP port.")
    tls: Tls | None = Field(None, description="TLS, with a client certificate if wanted; without it plain DICOM.")
    confirm: Literal["none", "storage-commitment", "find"] = Field(
        "none",
        description="How we make sure that the archive keeps what it took: `storage-commitment` (its report may come "
        "on an association to our listener), `find` (it is asked for the UIDs by C-FIND), or not at all.",
    )
    confirm_after_seconds: float = Field(
        10, ge=0, description="First time to ask whether the archive has what it took; later times are further apart."
    )
    report_wait_seconds: float = Field(
        5,
        ge=0,
        description="How long the association of a storage commitment request stays open for the report to come on it.",
    )
    fallback: bool = Field(
        True,
        description="Send what is refused in another form: Comprehensive 3D SR as Comprehensive or Enhanced SR, a "
        "report without its segmentation, Explicit VR as Implicit VR. False: such a delivery fails.",
    )
    maximum_kilobytes_per_second: int = Field(
        0, ge=0, description="Most that each connection sends, in kB (10^3 bytes) per second; 0 means no limit."
    )


class OAuth2(Section):
    """`oauth2` of a destination: client credentials (RFC 6749 4.4)."""

    token_url: str = Field(pattern=r"^https?://", description="Token endpoint.")
    client_id: str = Field(min_length=1, description="Client identifier.")
    client_secret_file: Path = Field(description="File that holds the client secret; read again for each token.")
    scope: str = Field(
        "", description="Scope asked for, e.g. `https://dicom.healthcareapis.azure.com/.default` for Azure."
    )


class HttpDestination(AnyDestination):
    """What all destinations that are spoken to by HTTP have."""

    url: str = Field(pattern=r"^https?://", description="Where it is.")
    bearer_token_file: Path | None = Field(
        None, description="File that holds a bearer token; read again for each request."
    )
    oauth2: OAuth2 | None = Field(None, description="Tokens by client credentials instead of a fixed one.")
    tls: Tls | None = Field(None, description="Authorities to trust and a client certificate, if not the usual ones.")

    @model_validator(mode="after")
    def _one_authentication(self) -> "HttpDestination":
        if self.bearer_token_file is not None and self.oauth2 is not None:
            raise ValueError("bearer_token_file and oauth2 exclude each other: give one")
        return self


class DicomwebDestination(HttpDestination, ObjectDestination):
    """`kind = "dicomweb"`: a DICOMweb server, by STOW-RS."""

    kind: Literal["dicomweb"] = Field("dicomweb", description="How results are sent: STOW-RS.")
    url: str = Field(
        pattern=r"^https?://", description="Root of the DICOMweb service, e.g. https://pacs.example.org/dicom-web."
    )
    confirm: Literal["none", "query", "retrieve"] = Field(
        "none",
        description="`query` asks by QIDO-RS whether it has what it took; `retrieve` reads it back by WADO-RS and "
        "compares its content; `none` does not ask.",
    )
    confirm_after_seconds: float = Field(
        10, ge=0, description="First time to ask whether the server has what it took; later times are further apart."
    )
    maximum_kilobytes_per_second: int = Field(
        0, ge=0, description="Most that each connection sends, in kB (10^3 bytes) per second; 0 means no limit."
    )


class Hl7Destination(AnyDestination):
    """`kind = "hl7"`: a RIS, reporting system or EHR, by ORU^R01 (HL7 v2.5.1) over MLLP."""

    kind: Literal["hl7"] = Field("hl7", description="How results are sent: ORU^R01 over MLLP.")
    host: str = Field(min_length=1, description="Host name or address.")
    port: Port = Field(description="TCP port.")
    tls: Tls | None = Field(None, description="TLS, with a client certificate if wanted; without it plain MLLP.")
    sending_application: str = Field("OVERREAD", description="MSH-3.")
    sending_facility: str = Field("", description="MSH-4.")
    receiving_application: str = Field("", description="MSH-5.")
    receiving_facility: str = Field("", description="MSH-6.")
    template: Path | None = Field(
        None,
        description="TOML file that says which segments are written and what stands in their fields, e.g. merge fields "
        "of the reporting system; without it `node/deliver/oru_templates/standard.toml`.",
    )


class FhirDestination(HttpDestination):
    """`kind = "fhir"`: a FHIR R4 server, by one transaction for each result."""

    kind: Literal["fhir"] = Field("fhir", description="How results are sent: FHIR R4 transaction.")
    url: str = Field(pattern=r"^https?://", description="Base URL of the FHIR service.")
    patient_system: str = Field("", description="Identifier system (URI) of Patient ID (0010,0020) at this site.")
    accession_system: str = Field(
        "", description="Identifier system (URI) of Accession Number (0008,0050) at this site."
    )


class WebhookDestination(HttpDestination):
    """`kind = "webhook"`: signed JSON to a URL."""

    kind: Literal["webhook"] = Field("webhook", description="How results are told: signed JSON.")
    url: str = Field(pattern=r"^https?://", description="Where it is posted to.")
    secret_file: Path = Field(description="File that holds the secret for the HMAC-SHA256 signature.")
    patient_fields: tuple[PatientField, ...] = Field(
        (), description="What it says about the patient; empty means nothing but the Study Instance UID."
    )


class FolderDestination(ObjectDestination):
    """`kind = "folder"`: a folder, for whatever picks the objects up there."""

    kind: Literal["folder"] = Field("folder", description="How results are sent: files.")
    folder: Path = Field(description="An existing folder; each study gets one in it.")


class PinDestination(AnyDestination):
    """`kind = "pin"`: folders as a platform of the Nuance PIN style collects them."""

    kind: Literal["pin"] = Field(
        "pin", description="How results are sent: GSPS, FHIR report and `resultManifest.json`."
    )
    folder: Path = Field(description="An existing folder; each result gets one in it.")
    partner_name: Name = Field(description="Our name at the platform; part of the name of the report.")
    service_name: Name = Field(description="Name of the service at the platform; part of the name of the report.")
    observation_codes: dict[str, str] = Field(
        {}, description="The platform's observation code, `code^text`, by our code of the finding, e.g. `SCT 1386000`."
    )


class CallbackDestination(HttpDestination):
    """`kind = "callback"`: a platform that asked by `POST /process` (`[process]`), by signed JSON."""

    kind: Literal["callback"] = Field("callback", description="How results are told: to the platform that asked.")
    url: str = Field(pattern=r"^https?://", description="Where it is posted to; requests cannot name another place.")
    client: AeTitle = Field(description="The client of `web.clients` that asks: it is told what it asked for only.")
    secret_file: Path = Field(description="File that holds the secret for the HMAC-SHA256 signature.")
    patient_fields: tuple[PatientField, ...] = Field(
        (), description="What it says about the patient; empty means nothing but the Study Instance UID."
    )


DESTINATION_KINDS: dict[str, type[AnyDestination]] = {
    "dimse": Destination,
    "dicomweb": DicomwebDestination,
    "hl7": Hl7Destination,
    "fhir": FhirDestination,
    "webhook": WebhookDestination,
    "folder": FolderDestination,
    "pin": PinDestination,
    "callback": CallbackDestination,
}
"""The class of each kind, in the order of the documentation."""


def _kind_of(value: Any) -> str:
    """`kind` of a table or of a destination that is made already."""
    return str(value.get("kind", "dimse")) if isinstance(value, dict) else str(getattr(value, "kind", ""))


DestinationOfAnyKind = Annotated[
    Annotated[Destination, Tag("dimse")]
    | Annotated[DicomwebDestination, Tag("dicomweb")]
    | Annotated[Hl7Destination, Tag("hl7")]
    | Annotated[FhirDestination, Tag("fhir")]
    | Annotated[WebhookDestination, Tag("webhook")]
    | Annotated[FolderDestination, Tag("folder")]
    | Annotated[PinDestination, Tag("pin")]
    | Annotated[CallbackDestination, Tag("callback")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_kind",
        custom_error_message="kind is not one of " + ", ".join(DESTINATION_KINDS),
    ),
]
"""A destination of the class that its `kind` says."""

SectionType = TypeVar("SectionType", bound=Section)


def absolute_paths(section: SectionType, base: Path) -> SectionType:
    """The same table with its paths, also those of tables in it, made absolute against a folder."""
    changes: dict[str, object] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Path):
            changes[key] = (base / value).resolve()
        elif isinstance(value, Section):
            changes[key] = absolute_paths(value, base)
    return section.model_copy(update=changes)
