"""What arrives, what is fetched and who is turned away, as audit messages: one for each study of an association or
request."""

from collections.abc import Mapping

from node.audit.events import instances_received, instances_sent, security_alert
from node.audit.trail import AnyTrail


class ReceptionWitness:
    """Writes what the ways in tell it into the trail."""

    def __init__(self, trail: AnyTrail, ae_title: str) -> None:
        self._trail = trail
        self._ae_title = ae_title

    def received(
        self, ae_title: str, address: str, studies: Mapping[str, Mapping[str, int]], *, is_whole: bool
    ) -> None:
        """Instances were stored."""
        for study_instance_uid, classes in studies.items():
            self._trail.record(
                instances_received(self._ae_title, ae_title, address, study_instance_uid, classes, whole=is_whole)
            )

    def fetched(self, ae_title: str, address: str, study_instance_uid: str, sop_class_uid: str) -> None:
        """A peer fetches an object of a result."""
        self._trail.record(
            instances_sent(
                self._ae_title,
                ae_title,
                ae_title,
                address,
                study_instance_uid,
                [sop_class_uid],
                begins=False,
                is_fetched=True,
            )
        )

    def turned_away(self, ae_title: str, address: str, reason: str) -> None:
        """A security alert."""
        self._trail.record(security_alert(self._ae_title, ae_title, address, reason))
