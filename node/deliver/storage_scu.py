"""Storage SCU (PS3.4 Annex B): all objects of a delivery in one association, as they are on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

from node.deliver import dimse
from node.deliver.association import Association, associate, describe
from node.deliver.dimse import StoreOutcome
from node.deliver.line import Check, Patience, nothing_to_check
from node.deliver.part10 import Part10File, read_file_meta
from node.deliver.transport import NeverTaken, NotTaken, Unreachable
from node.deliver.upper_layer import describe_context_result, propose
from node.errors import Transient
from node.settings import Destination


@dataclass(frozen=True)
class StoreAnswer:
    """What the destination answered for one object: the DIMSE status of C-STORE (PS3.4 Table B.2-1)."""

    sop_instance_uid: str
    sop_class_uid: str
    status: int
    offending_elements: tuple[str, ...] = ()

    @property
    def outcome(self) -> StoreOutcome:
        return dimse.store_outcome(self.status)

    @property
    def is_delivered(self) -> bool:
        """True for success and for warnings: the destination has the object."""
        return self.outcome in (StoreOutcome.DELIVERED, StoreOutcome.DELIVERED_WITH_WARNING)


class SendInterrupted(NotTaken):
    """Not all objects were delivered, and trying again may help; `answers` are those that came."""

    def __init__(self, message: str, answers: Sequence[StoreAnswer] = ()) -> None:
        super().__init__(message, statuses_of(answers))
        self.answers = tuple(answers)


class SendRefused(NeverTaken):
    """The destination does not take an object, and will not; `answers` are those that came."""

    def __init__(self, message: str, answers: Sequence[StoreAnswer] = ()) -> None:
        super().__init__(message, statuses_of(answers))
        self.answers = tuple(answers)


class ContextsRefused(SendRefused):
    """The destination refuses presentation contexts, and nothing was sent.

    `refused` has the result (PS3.8 Table 9-18) of each by (SOP Class UID, Transfer Syntax UID).
    """

    def __init__(self, message: str, refused: Mapping[tuple[str, str], int]) -> None:
        super().__init__(message)
        self.refused = dict(refused)


def statuses_of(answers: Sequence[StoreAnswer]) -> dict[str, int]:
    """DIMSE statuses by SOP Instance UID."""
    return {answer.sop_instance_uid: answer.status for answer in answers}


def send(
    destination: Destination,
    calling_ae_title: str,
    objects: Sequence[Path],
    timeout_seconds: float,
    *,
    check: Check = nothing_to_check,
) -> list[StoreAnswer]:
    """C-STORE Part 10 files in the given order, in one association.

    One presentation context is proposed for each (SOP class, transfer syntax) among the files, and nothing
    is sent unless all are accepted. Sending ends at the first object that is not taken, because later ones
    may refer to it. Objects are not decoded: what the file has is what the destination gets. Sending an
    object again is harmless.

    Parameters
    ----------
    timeout_seconds : float
        Longest wait for the destination to take or answer anything.
    check : callable
        Called while waiting; what it raises ends the sending.

    Returns
    -------
    list of StoreAnswer
        In the order of `objects`, all delivered, some perhaps with a warning.

    Raises
    ------
    Unreachable, SendInterrupted
        No connection, a stall, an abort, a temporary rejection, or a status such as 0xA700.
    SendRefused, Permanent
        An unknown AE title, a refused SOP class, or a status such as 0xA900 or 0xC000.
    """
    files = [read_file_meta(path) for path in objects]
    if not files:
        return []
    contexts = propose([(file.sop_class_uid, file.transfer_syntax_uid) for file in files])
    answers: list[StoreAnswer] = []
    patience = Patience(timeout_seconds, check, destination.maximum_kilobytes_per_second * 1000)
    try:
        with associate(destination, calling_ae_title, contexts, patience) as association:
            if not association.refused:
                for file in files:
                    answers.append(store(association, file))
                    if not answers[-1].is_delivered:
                        break
            refused = association.refused
    except Unreachable:
        raise
    except Transient as error:
        raise SendInterrupted(str(error), answers) from None
    if refused:
        raise ContextsRefused(_refused_contexts(destination, calling_ae_title, refused), refused)
    if not answers[-1].is_delivered:
        raise _refused_object(destination, answers)
    return answers


def store(association: Association, file: Part10File) -> StoreAnswer:
    """C-STORE one file; its context must have been accepted."""
    response = association.store(file)
    return StoreAnswer(file.sop_instance_uid, file.sop_class_uid, response.status, response.offending_elements)


def name_of(uid: str) -> str:
    """A SOP class or transfer syntax as ``Segmentation Storage (1.2.840.10008.5.1.4.1.1.66.4)``."""
    name = UID(uid).name
    return f"{name} ({uid})" if name != uid else uid


def _refused_contexts(destination: Destination, calling_ae_title: str, refused: dict[tuple[str, str], int]) -> str:
    what = "; ".join(
        f"{name_of(sop_class)} in {UID(syntax).name}: {describe_context_result(result)}"
        for (sop_class, syntax), result in refused.items()
    )
    return (
        f"{describe(destination)} refuses {what}. Nothing was sent. "
        f"Enable this in the archive for objects from {calling_ae_title!r}, then retry the job"
    )


def _refused_object(destination: Destination, answers: Sequence[StoreAnswer]) -> SendInterrupted | SendRefused:
    """The error for the last answer."""
    last = answers[-1]
    elements = f", offending elements {', '.join(last.offending_elements)}" if last.offending_elements else ""
    said = (
        f"{describe(destination)} answered {dimse.describe_status(last.status)}{elements} to "
        f"{name_of(last.sop_class_uid)} {last.sop_instance_uid}"
    )
    if last.outcome is StoreOutcome.TRY_AGAIN:
        return SendInterrupted(said, answers)
    return SendRefused(
        f"{said}. The archive's log says more about this UID; mend the cause, then retry the job", answers
    )
