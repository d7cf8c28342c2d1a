"""The profile of a destination: what it gets, in which flavour."""

from collections.abc import Iterable

from dicom_sr.errors import ProfileError
from dicom_sr.profile import DestinationProfile
from dicom_sr.profile_files import named_profile
from node.destination_settings import AnyDestination, ObjectDestination
from node.errors import Permanent
from node.settings import Settings

RESERVED = ("document", "pin", "retraction")
"""Names that no profile of a site may have: what is written with them lies beside that of the profiles."""


def profile_called(name: str, settings: Settings) -> DestinationProfile:
    """The profile of this name, shipped or in `profiles.paths`.

    Raises
    ------
    Permanent
        There is none, or its file cannot be used.
    """
    if name in RESERVED:
        raise Permanent(f"no profile may be called {name!r}: the node keeps something else in folders of that name")
    try:
        return named_profile(name, settings.profiles.paths)
    except ProfileError as error:
        raise Permanent(str(error)) from error


def profile_problems(destinations: Iterable[AnyDestination], settings: Settings) -> list[str]:
    """What is wrong with the profiles that destinations name."""
    problems = []
    for destination in destinations:
        if isinstance(destination, ObjectDestination):
            try:
                profile_called(destination.profile, settings)
            except Permanent as error:
                problems.append(f"destinations.{destination.name}.profile: {error}")
    return problems
