"""Results to a DICOM archive: C-STORE with the fallbacks it needs, and C-ECHO to see whether it is there."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from node.deliver.dimse import StoreOutcome, describe_status
from node.deliver.echo import echo
from node.deliver.fallback import USUAL, Form, Refusals, choose_form, recall
from node.deliver.part10 import NotPart10
from node.deliver.rerender import objects_in_form
from node.deliver.storage_scu import ContextsRefused, StoreAnswer, name_of, send, statuses_of
from node.deliver.transport import Check, Parcel, Receipt
from node.errors import Permanent, Transient
from node.logs import get_logger
from node.settings import Destination
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import AcceptedObject, get_destination_state, learn
from node.store.results import ResultObject

_PROBE_SECONDS = 5.0
_MOST_NEGOTIATIONS = 6


class DimseTransport:
    """C-STORE of all objects of a result, in order, in one association.

    What the destination refuses in negotiation is sent in the next form of `fallback`; the refusal is remembered.
    """

    def __init__(
        self,
        engine: Engine,
        destination: Destination,
        calling_ae_title: str,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
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
        """In the usual form, or in the first that the destination takes; what is further is refused or not."""
        refusals = self._recall() if self._destination.fallback else Refusals()
        for _ in range(_MOST_NEGOTIATIONS):
            try:
                return self._send_in(parcel, refusals, check)
            except ContextsRefused as error:
                further = refusals.after(error.refused, self._now())
                is_new = (further.classes.keys(), further.explicit.keys()) != (
                    refusals.classes.keys(),
                    refusals.explicit.keys(),
                )
                if _refused_further(parcel, error) or not self._destination.fallback:
                    raise
                if not is_new or choose_form(further) is None:
                    raise
                refusals = further
                self._remember(refusals)
        raise Permanent(f"destination {self._destination.name!r} refuses another form each time")

    def probe(self) -> None:
        try:
            echo(self._destination, self._calling_ae_title, min(self._timeout_seconds, _PROBE_SECONDS))
        except Permanent:  # it is there; what it does not like of us the deliveries will say
            return

    def _send_in(self, parcel: Parcel, refusals: Refusals, check: Check) -> Receipt:
        """Send in the form that these refusals leave."""
        form = choose_form(refusals) or USUAL
        objects = parcel.result.objects if form == USUAL else objects_in_form(self._engine, parcel, form)
        objects = (*objects, *parcel.further)
        paths = [parcel.data_dir / one.path for one in objects]
        with ExitStack() as stack:
            if refusals.explicit:
                paths = self._in_implicit_vr(stack, paths, refusals)
            answers = self._store(parcel, objects, paths, check)
        return replace(_receipt(objects, answers, form), reservation=_reservation(refusals, form))

    def _in_implicit_vr(self, stack: ExitStack, paths: list[Path], refusals: Refusals) -> list[Path]:
        from node.deliver.implicit import in_implicit_vr

        return stack.enter_context(in_implicit_vr(paths, set(refusals.explicit)))

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

    def _recall(self) -> Refusals:
        with read_transaction(self._engine) as connection:
            state = get_destination_state(connection, self._destination.name)
        return recall(state.learned or {}, self._now())

    def _remember(self, refusals: Refusals) -> None:
        form = choose_form(refusals) or USUAL
        get_logger("deliver").warning(
            "destination_refuses",
            destination=self._destination.name,
            classes=sorted(refusals.classes),
            explicit_vr=sorted(refusals.explicit),
            sent_as=form.name,
        )
        with write_transaction(self._engine) as connection:
            learn(connection, self._destination.name, refusals.remembered())


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
        warnings=warnings if form == USUAL else {"form": form.name, **warnings},
    )


def _reservation(refusals: Refusals, form: Form) -> str | None:
    """What is not as it was meant, and why."""
    if form == USUAL:
        return None
    refused = ", ".join(name_of(uid) for uid in refusals.classes)
    return f"sent as {form.name}, because the destination refuses {refused}"


def _refused_further(parcel: Parcel, error: ContextsRefused) -> list[str]:
    """Names of the SOP classes of what goes behind the result that were refused."""
    return sorted({name_of(one.sop_class_uid) for one in parcel.further} & {name_of(uid) for uid, _ in error.refused})


def _first_missing(objects: Sequence[ResultObject], paths: Sequence[Path]) -> str:
    missing = [one.sop_instance_uid for one, path in zip(objects, paths, strict=True) if not path.exists()]
    return missing[0] if missing else "(unknown)"
