"""Destination profiles as TOML files: those that come with this library (`dicom_sr/profiles`), and a site's own."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from dicom_sr import codes
from dicom_sr.errors import InvalidCode, ProfileError
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, ReportClass, Role, SegmentationFlavour, is_form_of

SHIPPED = Path(__file__).parent / "profiles"

LARGEST_SERIES_NUMBER = 2_000_000_000
"""Series Number has 31 bits (PS3.5 Table 6.2-1, IS), and ours follow the first."""

SITE_ROLES = tuple(role for role in Role if role not in (Role.NOT_ANALYSED, Role.REJECTION))
"""Roles that a profile may ask for."""

_Member = TypeVar("_Member", bound=Enum)


def shipped_names() -> tuple[str, ...]:
    """Names of the profiles that come with this library."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def named_profile(name: str, folders: Sequence[Path] = ()) -> DestinationProfile:
    """The profile of this name: a shipped one, or ``<name>.toml`` in one of a site's folders, or `ProfileError`.

    A site's file cannot take the name of a shipped profile, nor one that another profile's forms have at destinations
    that refuse some of it: the name stands for what is in the UIDs.
    """
    if name in shipped_names():
        taken = [folder for folder in folders if (folder / f"{name}.toml").exists()]
        if taken:
            raise ProfileError(f"{taken[0] / f'{name}.toml'}: {name} comes with Overread: give this one another name")
        return load_profile(SHIPPED / f"{name}.toml")
    sites = {path.stem for folder in folders for path in folder.glob("*.toml")}
    for folder in folders:
        if (path := folder / f"{name}.toml").exists():
            if other := next((each for each in sorted({*shipped_names(), *sites}) if is_form_of(name, each)), None):
                raise ProfileError(
                    f"{path}: {name} is what {other} is called where a destination refuses some of it: give this one "
                    "another name"
                )
            return load_profile(path)
    raise ProfileError(f"no profile is called {name!r}: known are {', '.join(sorted({*shipped_names(), *sites}))}")


def load_profile(path: Path) -> DestinationProfile:
    """The profile that stands in a TOML file, named as the file, or `ProfileError` with file, key and fix.

    `extends = "NAME"` begins with a shipped profile instead of with the conservative one.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: cannot be read as TOML: {error}") from error
    base = CONSERVATIVE
    extended = tree.pop("extends", None)
    if extended is not None:
        if extended not in shipped_names() or path == SHIPPED / f"{extended}.toml":
            raise ProfileError(f"{path}: extends: {extended!r} is none of {', '.join(shipped_names())}")
        base = load_profile(SHIPPED / f"{extended}.toml")
    tree.pop("description", None)
    values = {key: _read(path, key, value) for key, value in _flat(path, tree).items()}
    profile = replace(base, name=path.stem, **values)
    _check(path, profile)
    return profile


def _flat(path: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Field of the profile -> value as it stands in the file; unknown keys are refused."""
    flat: dict[str, Any] = {key: value for key, value in tree.items() if not isinstance(value, dict) or key in _CODES}
    for key, values in tree.items():
        if isinstance(values, dict) and key in _TABLES:
            flat |= {_TABLES[key].format(inner): value for inner, value in values.items()}
        elif isinstance(values, dict) and key not in _CODES:
            raise ProfileError(f"{path}: [{key}] is no table of a profile; it may have {', '.join(_TABLES)}")
    unknown = sorted(set(flat) - set(_READERS))
    if unknown:
        raise ProfileError(f"{path}: {', '.join(unknown)}: unknown; known are {', '.join(sorted(_READERS))}")
    return flat


def _read(path: Path, key: str, value: Any) -> Any:
    try:
        return _READERS[key](value)
    except (TypeError, ValueError, KeyError, InvalidCode) as error:
        raise ProfileError(f"{path}: {key}: {error}") from error


def _check(path: Path, profile: DestinationProfile) -> None:
    if not profile.roles or len(set(profile.roles)) < len(profile.roles):
        raise ProfileError(f"{path}: roles must name at least one object, and none twice")
    if profile.first_series_number > LARGEST_SERIES_NUMBER:
        raise ProfileError(f"{path}: first_series_number must be at most {LARGEST_SERIES_NUMBER}")
    if profile.title_without_place.value == codes.IMAGING_MEASUREMENT_REPORT.value:
        raise ProfileError(f"{path}: title_without_place 126000 would open as a black viewport: choose another title")


def _member(options: Mapping[str, _Member]) -> Callable[[Any], _Member]:
    def read(value: Any) -> _Member:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"{value!r} is none of {', '.join(options)}")
        return options[value]

    return read


def _several(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list):
            raise TypeError(f"expected a list, found {values!r}")
        return tuple(read(value) for value in values)

    return read_all


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, found {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"expected a whole number from 0, found {value!r}")
    return value


def _code(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != {"value", "scheme", "meaning"}:
        raise TypeError('expected { value = "...", scheme = "...", meaning = "..." }')
    return codes.concept(value["value"], value["scheme"], value["meaning"])


def _by_value(kind: type[_Member]) -> dict[str, _Member]:
    return {member.value: member for member in kind}


_role = _member({role.value: role for role in SITE_ROLES})
_segmentation_flavour = _member(_by_value(SegmentationFlavour))
_report_class = _member(_by_value(ReportClass))
_instead_of_segmentation: Callable[[Any], Any] = _member(
    {**_by_value(SegmentationFlavour), Role.SECONDARY_CAPTURE.value: Role.SECONDARY_CAPTURE}
)
_CODES = ("algorithm_purpose", "title_with_place", "title_without_place")
_TABLES = {"fallback": "{}_fallback", "limits": "maximum_{}"}
_READERS: dict[str, Callable[[Any], Any]] = {
    "roles": _several(_role),
    "report_class": _report_class,
    "report_fallback": _several(_report_class),
    "segmentation_flavour": _segmentation_flavour,
    "segmentation_fallback": _several(_instead_of_segmentation),
    **dict.fromkeys(
        (
            "bits_across_bytes",
            "compress_label_map",
            "image_library",
            "native_annotations",
            "draft_text",
            "report_only_without_cad",
        ),
        _flag,
    ),
    **dict.fromkeys(("first_series_number", "maximum_frames", "maximum_megabytes"), _count),
    **dict.fromkeys(_CODES, _code),
}
assert set(_READERS) == {field.name for field in fields(DestinationProfile)} - {"name"}
