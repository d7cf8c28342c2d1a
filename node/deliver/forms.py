"""The form in which a result goes to a destination: its profile, less what the destination refuses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydicom.uid import UID
from sqlalchemy import Engine

from dicom_sr.profile import DestinationProfile
from node.deliver.dimse import StoreOutcome, store_outcome
from node.deliver.fallback import Refusals, is_class_refused, recall
from node.deliver.rerender import objects_in_profile
from node.deliver.transport import NeverTaken, Parcel, Receipt
from node.errors import Permanent
from node.logs import get_logger
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import get_destination_state, learn
from node.store.results import ResultObject, StoredResult

_MOST_TRIES = 8


@dataclass(frozen=True)
class Form:
    """Objects in the order of delivery, and what is not as it was meant."""

    objects: tuple[ResultObject, ...]
    profile: str
    reservation: str | None

    def of(self, result: StoredResult) -> StoredResult:
        """The result with these objects instead of its own."""
        return replace(result, objects=self.objects)


class Forms:
    """Chooses the form for one destination, and remembers what it refuses.

    Parameters
    ----------
    profile : DestinationProfile
        What the destination is meant to get.
    falls_back : bool
        False: it gets that or nothing.
    """

    def __init__(
        self,
        engine: Engine,
        destination: str,
        profile: DestinationProfile,
        now: Callable[[], datetime],
        *,
        falls_back: bool = True,
    ) -> None:
        self.engine = engine
        self._destination = destination
        self._profile = profile
        self._now = now
        self._falls_back = falls_back

    def deliver(
        self,
        parcel: Parcel,
        send: Callable[[Form, Refusals], Receipt],
        learn: Callable[[Refusals, NeverTaken], Refusals] = lambda refusals, error: refusals,
    ) -> Receipt:
        """Send in the first form that the destination takes.

        Parameters
        ----------
        send : callable
            Sends a form; raises `NeverTaken` when it is refused.
        learn : callable
            What a refusal says of the destination beyond the statuses in it.
        """
        refusals = self._recall()
        accepted: dict[str, None] = {}
        refused: NeverTaken | None = None
        for _ in range(_MOST_TRIES):
            form = self._choose_after(refused, parcel, refusals)
            try:
                receipt = send(form, refusals)
            except NeverTaken as error:
                refused = error
                further = self._after_statuses(learn(refusals, error), (*form.objects, *parcel.further), error.statuses)
                if not self._may_follow(refusals, further):
                    raise
                refusals = further
                self._remember(refusals)
                accepted |= {uid: None for uid, status in error.statuses.items() if _is_taken(status)}
            else:
                return _with_leftovers(receipt, form, accepted)
        raise Permanent(f"destination {self._destination!r} refuses another form each time")

    def _choose_after(self, refused: NeverTaken | None, parcel: Parcel, refusals: Refusals) -> Form:
        """The next form; where it cannot be made, what was refused before is what the administrator has to know."""
        try:
            return self.choose(parcel, refusals)
        except Permanent as problem:
            if refused is None:
                raise
            raise NeverTaken(f"{refused}. And in another form: {problem}", refused.statuses) from None

    def _recall(self) -> Refusals:
        """What the destination refused within the last day."""
        if not self._falls_back:
            return Refusals()
        with read_transaction(self.engine) as connection:
            state = get_destination_state(connection, self._destination)
        return recall(state.learned or {}, self._now())

    def _after_statuses(
        self, refusals: Refusals, objects: Sequence[ResultObject], statuses: Mapping[str, int]
    ) -> Refusals:
        for one in objects:
            if is_class_refused(statuses.get(one.sop_instance_uid, 0)):
                refusals = refusals.after_status(one.sop_class_uid, self._now())
        return refusals

    def _may_follow(self, refusals: Refusals, further: Refusals) -> bool:
        """Whether there is another form to try after `further` was learned."""
        return self._falls_back and further.adds_to(refusals) and self._profile.without(further.classes) is not None

    def choose(self, parcel: Parcel, refusals: Refusals) -> Form:
        """The first form that a destination with these refusals takes, its objects rendered if need be."""
        profile = self._profile.without(refusals.classes) or self._profile
        objects = objects_in_profile(self.engine, parcel, profile)
        reservation = None
        if profile != self._profile:
            refused = ", ".join(sorted(_name(uid) for uid in refusals.classes))
            reservation = f"sent as {profile.name}, because the destination refuses {refused}"
        return Form(tuple(objects), profile.name, reservation)

    def _remember(self, refusals: Refusals) -> None:
        """Note what was learned, and say so."""
        profile = self._profile.without(refusals.classes)
        get_logger("deliver").warning(
            "destination_refuses",
            destination=self._destination,
            classes=sorted(refusals.classes),
            transfer_syntaxes=sorted(f"{uid} in {syntax}" for uid, syntax in refusals.syntaxes),
            sent_as=profile.name if profile else None,
        )
        with write_transaction(self.engine) as connection:
            learn(connection, self._destination, refusals.remembered())


def _is_taken(status: int) -> bool:
    return store_outcome(status) in (StoreOutcome.DELIVERED, StoreOutcome.DELIVERED_WITH_WARNING)


def _with_leftovers(receipt: Receipt, form: Form, accepted: Iterable[str]) -> Receipt:
    """Objects that were accepted before another was refused stay there: those of the form that followed are others."""
    there = {one.sop_instance_uid for one in receipt.objects}
    left = [uid for uid in accepted if uid not in there]
    said = f"accepted before that, and no part of it: {', '.join(left)}" if left else ""
    return replace(receipt, reservation="; ".join(part for part in (form.reservation, said) if part) or None)


def _name(uid: str) -> str:
    name = UID(uid).name
    return f"{name} ({uid})" if name != uid else uid
