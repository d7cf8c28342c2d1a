"""`overread deliveries` and `overread destinations`: what waits for whom, and whether it arrived."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy import Connection

from node.cli.shared import (
    ConfigOption,
    JsonOption,
    console,
    opened_database,
    print_json,
    read_settings,
    utc_now,
)
from node.destination_profiles import profile_called
from node.destination_settings import DicomwebDestination
from node.errors import Permanent
from node.jobs import history, queue
from node.jobs.job import Job
from node.jobs.wake import Topic, Wake
from node.settings import AnyDestination, Destination, Settings
from node.store import deliveries as store
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import Delivery
from node.store.results import delivery_statuses
from node.store.tables import DeliveryState, JobKind, JobState

_TRIAL = "a trial report was accepted: study {} of patient OVERREAD^TEST, delete it there"

deliveries = typer.Typer(help="Results on their way to destinations.", no_args_is_help=True)
destinations = typer.Typer(help="Where results go: backlog, hold, test.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the destination.")]
HeldArgument = Annotated[
    str, typer.Argument(metavar="NAME|JOB", help="Name of the destination, or number of one delivery's job.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(deliveries, name="deliveries")
    app.add_typer(destinations, name="destinations")


@deliveries.command("list")
def list_deliveries(
    config: ConfigOption = None,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this destination.")] = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only of this study.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 30,
    json_output: JsonOption = False,
) -> None:
    """List deliveries, newest first: on their way, delivered, confirmed, lost."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        jobs = history.list_jobs(
            connection,
            kind=JobKind.DELIVER,
            state=state,
            study_instance_uid=study,
            limit=100_000 if destination else limit,
        )
        jobs = [job for job in jobs if destination in (None, job.destination)][:limit]
        found = store.deliveries_of(connection, [job.job_id for job in jobs])
    if json_output:
        print_json([_as_json(job, found.get(job.job_id)) for job in jobs])
        return
    table = Table()
    for column in ("job", "destination", "what became of it", "attempt", "result", "study", "last error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        one = found.get(job.job_id)
        table.add_row(
            str(job.job_id),
            job.destination,
            _outcome(job, one),
            f"{job.attempt}/{job.maximum_attempts}",
            str(job.result_id),
            job.study_instance_uid,
            job.last_error or (one.last_error if one else None) or "",
        )
    console.print(table)


@deliveries.command()
def show(
    job_id: Annotated[int, typer.Argument(help="Number of the job.")],
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show one delivery: its objects, every answer, its history, whether it is confirmed."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        job = _delivery_job(queue.get_job(connection, job_id))
        one = store.get_delivery(connection, job_id)
        statuses = delivery_statuses(connection, job_id)
        lines = history.job_history(connection, job_id)
    if json_output:
        answers = {uid: f"{status:04X}" for uid, status in statuses.items()}
        print_json({**_as_json(job, one), "answers": answers, "history": [vars(line) for line in lines]})
        return
    _say(f"job {job.job_id}: result {job.result_id} to {job.destination}, {_outcome(job, one)}")
    _say(f"  study {job.study_instance_uid}, attempt {job.attempt} of {job.maximum_attempts}")
    for uid, status in statuses.items():
        _say(f"  {uid}: answered {status:04X}")
    if one is not None:
        delivered = f"{one.delivered_at:%Y-%m-%d %H:%M:%S}"
        _say(f"  delivered {delivered}, asked {one.checks} times, sent again {one.resends} times")
        if one.confirmed_at:
            _say(f"  confirmed {one.confirmed_at:%Y-%m-%d %H:%M:%S}")
        if one.last_error:
            _say(f"  {one.last_error}")
    for line in lines:
        _say(
            f"  {line.at:%Y-%m-%d %H:%M:%S} {line.event:<8} -> {line.to_state:<9} attempt {line.attempt}"
            f"{': ' + line.message if line.message else ''}"
        )


@deliveries.command()
def retry(
    job_ids: Annotated[list[int] | None, typer.Argument(help="Numbers of the jobs.")] = None,
    config: ConfigOption = None,
    failed_to: Annotated[
        str | None, typer.Option(metavar="NAME", help="All that FAILED towards this destination instead.")
    ] = None,
) -> None:
    """Send again, with all attempts: failed, cancelled or delivered ones. Sending twice is harmless: the UIDs are the
    same."""
    if bool(job_ids) == bool(failed_to):
        raise typer.BadParameter("give numbers of jobs, or --failed-to NAME")
    settings = read_settings(config)
    with opened_database(settings) as engine, write_transaction(engine) as connection:
        numbers = list(job_ids or ())
        if failed_to:
            _known(settings, failed_to)
            failed = history.list_jobs(connection, kind=JobKind.DELIVER, state=JobState.FAILED, limit=1_000_000)
            numbers = [job.job_id for job in reversed(failed) if job.destination == failed_to]
        for number in numbers:
            _delivery_job(queue.get_job(connection, number))
            queue.requeue(connection, number, utc_now())
    _wake(settings)
    _say(f"{len(numbers)} deliveries are queued again")


@deliveries.command()
def hold(name: HeldArgument, config: ConfigOption = None) -> None:
    """Send nothing to a destination, or not this one delivery, until it is released. Nothing is lost meanwhile."""
    settings = read_settings(config)
    with opened_database(settings) as engine, write_transaction(engine) as connection:
        if job := _delivery_of(settings, connection, name):
            queue.hold_job(connection, job.job_id, True)
        else:
            _known(settings, name)
            store.hold(connection, name, utc_now())
    _say(f"{name} is held: release it with `overread deliveries release {name}`")


@deliveries.command()
def release(name: HeldArgument, config: ConfigOption = None) -> None:
    """Send to a held destination, or a held delivery, again; a destination that is down is tried at once."""
    settings = read_settings(config)
    with opened_database(settings) as engine, write_transaction(engine) as connection:
        if job := _delivery_of(settings, connection, name):
            queue.hold_job(connection, job.job_id, False)
            said = f"job {name} is released"
        else:
            _known(settings, name)
            store.release(connection, name)
            waiting = store.bring_forward(connection, name, utc_now())
            said = f"{name} is released, {waiting} deliveries that waited for a retry go now"
    _wake(settings)
    _say(said)


@destinations.command("list")
def list_destinations(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """List destinations: backlog and its age, failed, confirmed, lost, held or down, last error."""
    settings = read_settings(config)
    with opened_database(settings) as engine, read_transaction(engine) as connection:
        backlogs = store.backlogs(connection)
        counts = store.confirmation_counts(connection)
        names = [destination.name for destination in settings.destinations]
        names += sorted(set(backlogs) - set(names))
        states = {name: store.get_destination_state(connection, name) for name in names}
    rows = []
    for name in names:
        backlog, state, configured = backlogs.get(name), states[name], settings.destination(name)
        rows.append(
            {
                "destination": name,
                "kind": getattr(configured, "kind", None),
                "state": _flow(configured, state),
                "waiting": backlog.waiting if backlog else 0,
                "oldest_waiting": backlog.oldest_at if backlog else None,
                "failed": backlog.failed if backlog else 0,
                **{each.lower(): counts.get((name, each), 0) for each in DeliveryState},
                "last_success_at": state.last_success_at,
                "last_error_at": state.last_error_at,
                "last_error": state.last_error,
            }
        )
    if json_output:
        print_json(rows)
        return
    table = Table()
    for column in rows[0] if rows else ("destination",):
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console.print(table)


@destinations.command("test")
def try_destination(
    name: NameArgument,
    config: ConfigOption = None,
    send_trial_object: Annotated[
        bool,
        typer.Option(help="Also send a report of the patient OVERREAD^TEST, marked as a test, to be deleted there."),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait for an answer, in seconds.")] = 10,
    json_output: JsonOption = False,
) -> None:
    """Ask a destination whether it is there, knows us, and what it takes of what we send."""
    settings = read_settings(config)
    destination = _known(settings, name)
    if not isinstance(destination, Destination):
        _test_by_probe(settings, destination, send_trial_object, json_output)
        return
    from node.deliver import trial
    from node.deliver.storage_scu import send

    profile = profile_called(destination.profile, settings)
    seconds, rows = trial.negotiate(destination, profile, settings.node.ae_title, timeout)
    said = trial.verdict(destination, profile, rows)
    study = None
    if send_trial_object:
        study = trial.send_trial_object(
            lambda path: send(destination, settings.node.ae_title, [path], timeout), utc_now()
        )
    if json_output:
        print_json({"seconds": seconds, "negotiated": [vars(row) for row in rows], "said": said, "trial_study": study})
    else:
        place = f"{destination.ae_title} at {destination.host}:{destination.port}"
        _say(f"{name} ({place}) answered in {1000 * seconds:.0f} ms")
        for row in rows:
            _say(f"  {row.name:<60} {', '.join(row.transfer_syntaxes) or 'refused: ' + row.reason}")
        for sentence in said:
            _say(sentence)
        if study:
            _say(_TRIAL.format(study))
    if any(sentence.startswith("problem") for sentence in said):
        raise typer.Exit(1)


def _test_by_probe(settings: Settings, destination: AnyDestination, with_trial: bool, json_output: bool) -> None:
    from node.deliver.dicomweb_transport import DicomwebTransport
    from node.deliver.lanes import transport_of
    from node.deliver.trial import send_trial_object

    if with_trial and not isinstance(destination, DicomwebDestination):
        raise Permanent(
            f"{destination.name} is no DICOM archive and no DICOMweb server: there is no trial object for it, leave "
            "--send-trial-object out"
        )
    study = None
    with opened_database(settings) as engine:
        transport = transport_of(engine, settings, destination, utc_now)
        transport.probe()
        if isinstance(transport, DicomwebTransport) and with_trial:
            study = send_trial_object(transport.send_alone, utc_now())
    if json_output:
        print_json({"answers": True, "trial_study": study})
        return
    _say(f"{destination.name} answers and takes our credentials")
    if study:
        _say(_TRIAL.format(study))


def _known(settings: Settings, name: str) -> AnyDestination:
    destination = settings.destination(name)
    if destination is None:
        known = ", ".join(each.name for each in settings.destinations) or "none"
        raise Permanent(f"no destination is called {name!r}: configured are {known}")
    return destination


def _delivery_of(settings: Settings, connection: Connection, name: str) -> Job | None:
    """The delivery of this job number; None when it is the name of a destination."""
    if not name.isdigit() or settings.destination(name) is not None:
        return None
    return _delivery_job(queue.get_job(connection, int(name)))


def _delivery_job(job: Job) -> Job:
    if job.kind is not JobKind.DELIVER:
        raise Permanent(f"job {job.job_id} is no delivery: see `overread jobs show {job.job_id}`")
    return job


def _wake(settings: Settings) -> None:
    Wake(settings.wake_folder).notify(Topic.DELIVER)


def _outcome(job: Job, one: Delivery | None) -> str:
    """One word for what became of a delivery: the state of its job until it was accepted, then of its confirmation."""
    if job.held and job.state is JobState.QUEUED:
        return "HELD"
    if job.state is JobState.SUCCEEDED and one is not None:
        return one.state.value
    return (
        f"{job.state.value} (lost before)" if one is not None and one.state is DeliveryState.LOST else job.state.value
    )


def _flow(destination: AnyDestination | None, state: store.DestinationState) -> str:
    if destination is None:
        return "not configured"
    if state.held_at is not None:
        return "held"
    if state.closed_until is not None:
        return "down"
    return "failing" if state.failures else "flowing"


def _as_json(job: Job, one: Delivery | None) -> dict[str, Any]:
    fields: tuple[str, ...] = ("job_id", "destination", "state", "critical", "held", "attempt", "result_id")
    fields += ("study_instance_uid", "last_error", "run_after")
    shown = {name: getattr(job, name) for name in fields}
    return {**shown, "outcome": _outcome(job, one), "delivery": vars(one) if one else None}


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
