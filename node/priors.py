"""The edge of choosing earlier studies: which ones of the same patient are here, and why none is known."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from node.infer.manifest import Manifest
from node.route_settings import Route
from node.select.candidates import Priors, PriorStudy
from node.select.decide import comparing_models
from node.store import catalogue
from node.store.patients import earlier_studies, known_study, reopen_later
from node.store.tables import SeriesState


def priors_if_wanted(
    connection: Connection, study_instance_uid: str, routes: Sequence[Route], manifests: Mapping[str, Manifest]
) -> Priors:
    """The earlier studies, read only where a model compares."""
    return priors_of(connection, study_instance_uid) if comparing_models(routes, manifests) else Priors()


def reopen_comparisons(
    connection: Connection,
    study_instance_uid: str,
    routes: Sequence[Route],
    manifests: Mapping[str, Manifest],
    now: datetime,
) -> int:
    """An earlier study came after a later one: the later one is decided on again; how many series that are."""
    models = comparing_models(routes, manifests)
    known = known_study(connection, study_instance_uid) if models else None
    return reopen_later(connection, known, models, now) if known else 0


def priors_of(connection: Connection, study_instance_uid: str) -> Priors:
    """Whole earlier studies of the patient whose images are here, the nearest first."""
    known = known_study(connection, study_instance_uid)
    if known is None or known.patient_key is None:
        return Priors(none_because="the images carry no Patient ID, so that earlier studies are not known")
    if known.study_date_time is None:
        return Priors(none_because="the images carry no Study Date, so that no study is known to be earlier")
    earlier = earlier_studies(connection, known)
    found, arriving = [], 0
    for each in earlier:
        series = [one for one in catalogue.study_series(connection, each.study_instance_uid) if one.instances]
        if any(one.state is SeriesState.RECEIVING for one in series):
            arriving += 1
        elif series:
            found.append(PriorStudy(each.study_instance_uid, str(each.study_date_time), tuple(series)))
    if found or not earlier:
        return Priors(tuple(found))
    gone = len(earlier) - arriving
    said = [f"of {gone} the images were deleted"] * bool(gone) + [f"{arriving} are arriving"] * bool(arriving)
    return Priors(none_because=f"{len(earlier)} earlier studies of this patient are known: {' and '.join(said)}")
