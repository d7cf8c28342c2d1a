"""Settings: one frozen, validated tree, read from `config/node.toml` and the environment.

Every key can be overridden by an environment variable: ``OVERREAD_<SECTION>__<KEY>``, e.g. ``OVERREAD_DIMSE__PORT``.
Lists of tables (routes, destinations) are given there as JSON. Unknown keys, wrong types and impossible combinations
raise `SettingsError`, whose message names file, key and fix. Units are in the names.
"""

import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.audit_settings import AuditSettings
from node.commitment_settings import CommitmentSettings
from node.destination_settings import (
    AnyDestination,
    Destination,
    DestinationOfAnyKind,
    absolute_paths,
)
from node.errors import Permanent
from node.notice_settings import NoticeSettings
from node.process_settings import ProcessSettings
from node.retention_settings import RetentionSettings
from node.route_settings import CountingArchive, Match, Route, SettleSettings
from node.settings_problems import explain_text, explain_values, unknown_variables
from node.settings_types import AeTitle, Name, Port, Section
from node.toml_problems import MisplacedValue
from node.web_settings import WebSettings
from node.work_settings import WorkSettings

__all__ = [
    "AeTitle",
    "AnyDestination",
    "CountingArchive",
    "Destination",
    "Match",
    "Name",
    "Port",
    "Route",
    "Section",
    "Settings",
    "SettleSettings",
    "load_settings",
]


class SettingsError(Permanent):
    """The configuration cannot be used; the message lists each problem with file, key and fix."""


class NodeSettings(Section):
    """`[node]`: who this node is and where it keeps its data."""

    ae_title: AeTitle = Field(
        "OVERREAD", description="AE title of the node: called by senders, calling towards destinations."
    )
    data_dir: Path = Field(
        Path("data"),
        description="Folder of database, received instances and results; relative to the configuration file. "
        "Give it a file system of its own.",
    )
    database_url: str = Field(
        "",
        description="`postgresql://user:password@host/database` where several machines share the work; empty means "
        "SQLite in data_dir (`overread.sqlite`).",
    )

    @field_validator("database_url")
    @classmethod
    def _is_a_known_database(cls, url: str) -> str:
        if url and not re.match(r"(postgresql(\+\w+)?://|sqlite:///).", url):
            raise ValueError("expected postgresql://user:password@host/database, or nothing for SQLite in data_dir")
        return url


class Peer(Section):
    """`[[dimse.peers]]`: a sender that may associate. All conditions given must hold."""

    ae_title: AeTitle = Field(description="Calling AE title.")
    addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Addresses or networks it comes from, e.g. 10.1.2.0/24; empty means any."
    )
    certificates: tuple[Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")], ...] = Field(
        (), description="SHA-256 of certificates that it may show, in hexadecimal; empty means any, or none."
    )
    user: str = Field(
        "", description="User name that it must give by user identity negotiation (PS3.7 D.3.3.7); empty: none."
    )
    password_file: Path | None = Field(
        None, description="File that holds its passcode, read again for each association; without it the name will do."
    )

    @model_validator(mode="after")
    def _password_has_a_user(self) -> "Peer":
        if self.password_file is not None and not self.user:
            raise ValueError("password_file needs user: give it")
        return self


class DimseSettings(Section):
    """`[dimse]`: the DICOM listener."""

    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: int = Field(11112, ge=0, le=65535, description="TCP port to listen on; 0 lets the system choose one.")
    processes: int = Field(
        1, ge=1, le=16, description="Listener processes on the port; more than one needs SO_REUSEPORT (Linux)."
    )
    durability: Literal["group", "object", "none"] = Field(
        "group",
        description="What is on disk before success is answered: `group` syncs what arrives together, `object` each "
        "object alone, `none` leaves syncing to the system (a power cut loses acknowledged objects).",
    )
    direct_writes: bool = Field(
        True,
        description="Write what is received past the page cache of the system (O_DIRECT), where the file system can "
        "and `durability` is not `none`. Disks that spin may do better without: images are then read back from memory.",
    )
    maximum_pdu_bytes: int = Field(
        131072, ge=4096, le=1 << 20, description="Largest PDU we accept (PS3.8 D.1), in bytes."
    )
    maximum_associations: int = Field(
        64, ge=1, le=1000, description="Open associations at once; more are rejected (transient)."
    )
    maximum_associations_per_peer: int = Field(
        32, ge=1, le=1000, description="Open associations at once from one address; more are rejected (transient)."
    )
    maximum_object_mb: int = Field(4096, ge=1, description="Largest object accepted, in MB (10^6 bytes).")
    require_called_ae_title: bool = Field(
        True, description="Reject associations that call another AE title than node.ae_title."
    )
    allowed_calling_ae_titles: tuple[AeTitle, ...] = Field(
        (), description="Calling AE titles that may associate; empty means all."
    )
    peers: tuple[Peer, ...] = Field(
        (), description="Senders that may associate, by AE title, address and certificate; empty means all."
    )
    tls_port: int = Field(
        2762, ge=0, le=65535, description="TCP port for TLS, beside the plain one; 0 lets the system choose one."
    )
    tls_certificate: str = Field(
        "", description="PEM file: certificate of the node with its chain, read again when it changes; empty: no TLS."
    )
    tls_key: str = Field("", description="PEM file: its private key, without password.")
    tls_client_authorities: str = Field(
        "", description="PEM file: clients must show a certificate of one of these authorities; empty: they need none."
    )
    tls_minimum_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest version of TLS accepted.")
    network_timeout_seconds: float = Field(
        60, gt=0, description="An association without progress for this long is ended."
    )
    acse_timeout_seconds: float = Field(10, gt=0, description="Time a peer has to complete the association request.")
    minimum_bytes_per_second: int = Field(
        1000,
        ge=0,
        description="A message that is slower than this on average, once it has lasted network_timeout_seconds, is "
        "ended.",
    )
    stop_seconds: float = Field(
        5, ge=0, description="Time that open associations have to finish when the node stops; then they are aborted."
    )
    free_disk_mb: int = Field(
        1024, ge=0, description="Below this much free room in data_dir storage answers A700 (out of resources), in MB."
    )

    @property
    def writes_past_cache(self) -> bool:
        """Whether what is received goes past the page cache; where nothing is synced, the cache is what it is for."""
        return self.direct_writes and self.durability != "none"


class DeliverSettings(Section):
    """`[deliver]`: sending results."""

    processes: int = Field(1, ge=1, le=16, description="Delivery processes.")
    lease_seconds: float = Field(
        60, gt=0, description="A delivery whose process has not reported for this long is taken from it."
    )
    maximum_attempts: int = Field(
        1000, ge=1, description="Attempts before a delivery is parked as FAILED; 1000 are about a week."
    )
    first_retry_seconds: float = Field(
        5, gt=0, description="Wait before the second attempt; doubles each time, with jitter."
    )
    longest_retry_seconds: float = Field(900, gt=0, description="Longest wait between attempts.")
    timeout_seconds: float = Field(60, gt=0, description="Longest wait for an answer of the destination.")
    breaker_failures: int = Field(
        3,
        ge=1,
        description="After so many attempts in a row that did not reach a destination nothing more is tried until a "
        "probe reaches it; attempts are not used up meanwhile.",
    )
    probe_seconds: float = Field(30, gt=0, description="How often a destination that is down is probed.")
    maximum_resends: int = Field(
        10, ge=0, description="How often a result that a destination accepted and lost is sent again."
    )
    poll_seconds: float = Field(5, gt=0, description="Safety net only: delivery is woken when there is work.")


class RemoteModelSettings(Section):
    """`[[models.remote]]`: a network that runs on an inference server (KServe v2, e.g. Triton)."""

    model: str = Field(min_length=1, description="Identifier of the model whose network it is.")
    file: str = Field("", description="Which of its ONNX files; empty means every one.")
    url: str = Field(
        pattern=r"^(https?|grpcs?)://[^/\s]+",
        description="`http://`, `https://`, `grpc://` or `grpcs://`, host and port.",
    )
    name: str = Field(min_length=1, description="Name of the network on the server.")
    version: str = Field(
        min_length=1, description="Its version there; answers of another version are refused, never used."
    )
    timeout_seconds: float = Field(60, gt=0, description="Longest wait for one answer.")


class ModelsSettings(Section):
    """`[models]`: where model folders are."""

    paths: tuple[Path, ...] = Field(
        (Path("models"),),
        description="Folders holding one folder per model (with `model.toml`); relative to the configuration file.",
    )
    trusted_keys: tuple[Path, ...] = Field(
        (),
        description="Public keys (Ed25519, PEM), relative to the configuration file. When any is given, models that "
        "none of them signed are refused (`overread models sign`).",
    )
    remote: tuple[RemoteModelSettings, ...] = Field(
        (), description="Networks that run on an inference server instead of in this node's workers."
    )


class ProfilesSettings(Section):
    """`[profiles]`: where a site's own destination profiles are."""

    paths: tuple[Path, ...] = Field(
        (Path("profiles"),),
        description="Folders with one TOML file per profile (docs/profiles.md); relative to the configuration file.",
    )


class LogSettings(Section):
    """`[log]`: log lines on standard error."""

    style: Literal["json", "text"] = Field("json", description="One JSON object a line, or text for people.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")


_ASCENDING = (
    ("work", "lease_seconds", "deadline_seconds"),
    ("settle", "released_quiet_seconds", "quiet_seconds"),
    ("settle", "quiet_seconds", "limit_seconds"),
    ("deliver", "first_retry_seconds", "longest_retry_seconds"),
)
"""Table, and two of its times of which the first must not be longer than the second."""


class Settings(BaseSettings):
    """The whole configuration, frozen. Paths are absolute after `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="OVERREAD_", env_nested_delimiter="__", validate_default=True
    )

    node: NodeSettings = NodeSettings()
    dimse: DimseSettings = DimseSettings()
    web: WebSettings = WebSettings()
    commitment: CommitmentSettings = CommitmentSettings()
    settle: SettleSettings = SettleSettings()
    work: WorkSettings = WorkSettings()
    deliver: DeliverSettings = DeliverSettings()
    models: ModelsSettings = ModelsSettings()
    profiles: ProfilesSettings = ProfilesSettings()
    notices: NoticeSettings = NoticeSettings()
    process: ProcessSettings = ProcessSettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    routes: tuple[Route, ...] = Field((), description="Rules from studies to models and destinations.")
    destinations: tuple[DestinationOfAnyKind, ...] = Field((), description="Where results go.")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
    ):
        """The environment goes before the file (which arrives as init arguments)."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if bool(self.dimse.tls_certificate) != bool(self.dimse.tls_key):
            raise MisplacedValue(("dimse", "tls_certificate"), "belongs together with tls_key: give both or none")
        if self.dimse.tls_client_authorities and not self.dimse.tls_certificate:
            raise MisplacedValue(("dimse", "tls_client_authorities"), "needs tls_certificate and tls_key: give them")
        return self

    @model_validator(mode="after")
    def _names_resolve(self) -> "Settings":
        for table in ("routes", "destinations"):
            names = [each.name for each in getattr(self, table)]
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise MisplacedValue((table, place), f"another one is called {name!r}: give each a name of its own")
        known = {destination.name for destination in self.destinations}
        for place, route in enumerate(self.routes):
            for name in route.destinations:
                if name not in known:
                    raise MisplacedValue(
                        ("routes", place, "destinations"),
                        f"no destination is called {name!r}: known are {', '.join(sorted(known)) or 'none'}",
                    )
        if self.process.enabled and not self.web.enabled:
            raise MisplacedValue(("process", "enabled"), "needs the HTTP server: set web.enabled = true")
        for table, shorter, longer in _ASCENDING:
            if getattr(getattr(self, table), shorter) > getattr(getattr(self, table), longer):
                raise MisplacedValue((table, shorter), f"is longer than {table}.{longer}: make it shorter")
        return self

    def destination(self, name: str) -> AnyDestination | None:
        """The destination of this name; None when it is not configured (any more)."""
        return next((each for each in self.destinations if each.name == name), None)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database, SQLite in `data_dir` unless configured."""
        return self.node.database_url or f"sqlite:///{self.node.data_dir / 'overread.sqlite'}"

    @property
    def wake_folder(self) -> Path:
        """Where the processes of this node wake each other (`node.jobs.wake`)."""
        return self.node.data_dir / "run"


def load_settings(path: Path | None = None) -> Settings:
    """Read, check and freeze the configuration.

    Parameters
    ----------
    path : Path, optional
        A TOML file; without it the defaults and the environment are used, relative to the working directory.

    Raises
    ------
    SettingsError
        If the file cannot be read or any value cannot be used.
    """
    where = str(path) if path else "settings"
    text = "" if path is None else _read(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(explain_text(where, error)) from None
    if unknown := unknown_variables(Settings, os.environ):
        tables = ", ".join(name.upper() for name in Settings.model_fields)
        raise SettingsError(
            f"environment variable {unknown[0]}: unknown table, expected OVERREAD_TABLE__KEY of one of: {tables}"
        )
    try:
        settings = Settings(**tree)
    except ValidationError as error:
        raise SettingsError(explain_values(Settings, error, where, text, os.environ)) from None
    except ValueError as error:  # an environment variable that is not JSON where JSON is wanted
        raise SettingsError(f"{where}: {error}") from None
    return _with_absolute_paths(settings, path.parent if path else Path.cwd())


def _read(path: Path) -> str:
    """The text of a file; editors of Windows put a mark before it (BOM)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give a configuration file that exists"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(explain_text(str(path), error)) from None


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    """The same settings with every path made absolute against the folder of the file that named it."""
    node = settings.node.model_copy(update={"data_dir": (base / settings.node.data_dir).resolve()})
    models = settings.models.model_copy(
        update={
            "paths": tuple((base / folder).resolve() for folder in settings.models.paths),
            "trusted_keys": tuple((base / key).resolve() for key in settings.models.trusted_keys),
        }
    )
    profiles = settings.profiles.model_copy(
        update={"paths": tuple((base / folder).resolve() for folder in settings.profiles.paths)}
    )
    destinations = tuple(absolute_paths(destination, base) for destination in settings.destinations)
    dimse = settings.dimse.model_copy(update=_absolute_files(settings.dimse, base))
    tables = {
        "node": node,
        "models": models,
        "profiles": profiles,
        "destinations": destinations,
        "dimse": dimse,
        "notices": settings.notices.with_absolute_paths(base),
        "process": settings.process.with_absolute_paths(base),
        "audit": settings.audit.with_absolute_paths(base),
        "web": settings.web.with_absolute_paths(base),
        "commitment": settings.commitment.with_absolute_paths(base),
    }
    return settings.model_copy(update=tables)


def _absolute_files(dimse: DimseSettings, base: Path) -> dict[str, Any]:
    files = {key: getattr(dimse, key) for key in ("tls_certificate", "tls_key", "tls_client_authorities")}
    changes: dict[str, Any] = {key: str((base / file).resolve()) for key, file in files.items() if file}
    return {**changes, "peers": tuple(absolute_paths(peer, base) for peer in dimse.peers)}
