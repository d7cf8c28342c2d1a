"""Who is told what a peer did, for the audit trail: one call for an association, never one for an object."""

from collections.abc import Mapping
from typing import Protocol


class Witness(Protocol):
    """Told once something is over; it must not raise."""

    def received(
        self, ae_title: str, address: str, studies: Mapping[str, Mapping[str, int]], *, is_whole: bool
    ) -> None:
        """A peer stored these instances: how many of each SOP class, by study. `is_whole`: it ended as it should."""

    def turned_away(self, ae_title: str, address: str, reason: str) -> None:
        """A peer was refused before it could do anything."""


class NoWitness:
    """The witness of a receiver that nobody asks."""

    def received(
        self, ae_title: str, address: str, studies: Mapping[str, Mapping[str, int]], *, is_whole: bool
    ) -> None:
        """Forget it."""

    def turned_away(self, ae_title: str, address: str, reason: str) -> None:
        """Forget it."""
