"""Results to a DICOM archive: C-STORE with the fallbacks it needs, and C-ECHO to see whether it is there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from node.deliver.dimse import StoreOutcome, describe_status
from node.deliver.echo import echo
from node.deliver.fallback import Refusals
from node.deliver.forms import Form, Forms
from node.deliver.part10 import NotPart10
from node.deliver.storage_scu import ContextsRefused, StoreAnswer, name_of, send, statuses_of
from node.deliver.transport import Check, NeverTaken, Parcel, Receipt
from node.errors import Permanent, Transient
from node.settings import Destination
from node.store.deliveries import AcceptedObject
from node.store.results import ResultObject

_PROBE_SECONDS = 5.0


class DimseTransport:
    """C-STORE of all objects of a result, in order, in one association.

    What the destination refuses, in negotiation or by status, is sent in the next form; the refusal is remembered.
    """

    def __init__(
        self,
        forms: Forms,
        destination: Destination,
        calling_ae_title: str,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._forms = forms
        self._destination = destination
        self._calling_ae_title = calling_ae_title
        self._timeout_seconds = timeout_seconds
        self._now = now

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        try:
            return self._send_result(parcel, check)
        except ContextsRefused as error:
            refused = _refused_further(parcel, error)
            if not refused:
                raise
        receipt = self._send_result(replace(parcel, further=()), check)
        said = f"the earlier result is not retracted, because the destination refuses {', '.join(refused)}"
        return replace(receipt, reservation="; ".join(each for each in (receipt.reservation, said) if each))

    def _send_result(self, parcel: Parcel, check: Check) -> Receipt:
        """In the form that its profile says, or in the first that the destination takes."""

        def learn(refusals: Refusals, error: NeverTaken) -> Refusals:
            if isinstance(error, ContextsRefused) and not _refused_further(parcel, error):
                return refusals.after(error.refused, self._now())
            return refusals

        return self._forms.deliver(parcel, lambda form, refusals: self._send_form(parcel, form, refusals, check), learn)

    def probe(self) -> None:
        try:
            echo(self._destination, self._calling_ae_title, min(self._timeout_seconds, _PROBE_SECONDS))
        except Permanent:  # it is there; what it does not like of us the deliveries will say
            return

    def _send_form(self, parcel: Parcel, form: Form, refusals: Refusals, check: Check) -> Receipt:
        objects = (*form.objects, *parcel.further)
        paths = [parcel.data_dir / one.path for one in objects]
        with ExitStack() as stack:
            if refusals.syntaxes:
                paths = stack.enter_context(_in_accepted_syntaxes(paths, refusals))
            answers = self._store(parcel, objects, paths, check)
        return _receipt(objects, answers, form)

    def _store(
        self, parcel: Parcel, objects: Sequence[ResultObject], paths: Sequence[Path], check: Check
    ) -> list[StoreAnswer]:
        number = parcel.result.result_id
        try:
            return send(self._destination, self._calling_ae_title, paths, self._timeout_seconds, check=check)
        except FileNotFoundError:
            lost = _first_missing(objects, paths)
            raise Permanent(
                f"object {lost} of result {number} is not on disk: restore data_dir, then retry the job"
            ) from None
        except NotPart10 as error:
            raise Permanent(f"an object of result {number} {error}: restore data_dir, then retry the job") from None
        except OSError as error:
            raise Transient(f"result {number} cannot be read ({error.strerror})") from None


def _receipt(objects: Sequence[ResultObject], answers: Sequence[StoreAnswer], form: Form) -> Receipt:
    warnings = {
        answer.sop_instance_uid: describe_status(answer.status)
        for answer in answers
        if answer.outcome is StoreOutcome.DELIVERED_WITH_WARNING
    }
    return Receipt(
        objects=tuple(
            AcceptedObject(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in objects
        ),
        statuses=statuses_of(answers),
        warnings={"form": form.profile, **warnings} if form.reservation else warnings,
        reservation=form.reservation,
    )


@contextmanager
def _in_accepted_syntaxes(paths: Sequence[Path], refusals: Refusals) -> Iterator[list[Path]]:
    from node.deliver.transcode import in_accepted_syntaxes  # its libraries are large, and most never need them

    with in_accepted_syntaxes(paths, refusals) as accepted:
        yield accepted


def _refused_further(parcel: Parcel, error: ContextsRefused) -> list[str]:
    """Names of the SOP classes of what goes behind the result that were refused."""
    return sorted({name_of(one.sop_class_uid) for one in parcel.further} & {name_of(uid) for uid, _ in error.refused})


def _first_missing(objects: Sequence[ResultObject], paths: Sequence[Path]) -> str:
    missing = [one.sop_instance_uid for one, path in zip(objects, paths, strict=True) if not path.exists()]
    return missing[0] if missing else "(unknown)"
