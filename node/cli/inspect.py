"""`overread status` and `overread jobs`: what the node holds and does."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy import Connection

from node.cli.here import look_here
from node.cli.shared import (
    NO_GPU,
    NO_GPU_FIX,
    ConfigOption,
    JsonOption,
    console,
    opened_database,
    print_json,
    read_settings,
    said_of,
    utc_now,
)
from node.jobs import history, queue
from node.jobs.job import Job
from node.jobs.speculation import EarlyWork, early_work
from node.jobs.wake import Topic, Wake
from node.store import catalogue, commitments, results
from node.store.database import read_transaction, write_transaction
from node.store.decisions import recent_decisions
from node.store.tables import DecisionOutcome, JobKind, JobState

jobs = typer.Typer(help="The queue: inference and delivery.", no_args_is_help=True)
JobArgument = Annotated[int, typer.Argument(help="Number of the job.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(status)
    app.add_typer(jobs, name="jobs")


def status(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Show what runs here, what is stored, what waits, what failed, and what could not be analysed or taken."""
    settings = read_settings(config)
    with opened_database(settings) as engine, read_transaction(engine) as connection:
        held = catalogue.holdings(connection)
        counts = history.job_counts(connection)
        waiting = {kind: history.oldest_waiting(connection, kind) for kind in JobKind}
        failures = history.last_failures(connection, limit=5)
        reservations = history.last_reservations(connection, limit=5)
        not_analysed = recent_decisions(connection, limit=10)
        not_wanted = recent_decisions(connection, DecisionOutcome.NOT_WANTED, limit=10)
        quarantined = catalogue.recent_quarantine(connection, limit=10)
        early = early_work(connection)
        unreported = commitments.unreported(connection, limit=10)
    here = look_here(settings)
    if json_output:
        print_json(
            {
                "here": {name: value for name, value in vars(here).items() if name != "port"},
                "stored": vars(held),
                "jobs": {kind: {state: counts[kind, state] for state in JobState} for kind in JobKind},
                "oldest_waiting": waiting,
                "last_failures": [vars(each) for each in failures],
                "last_reservations": [vars(each) for each in reservations],
                "not_analysed": [vars(each) for each in not_analysed],
                "not_wanted": [vars(each) for each in not_wanted],
                "quarantine": [vars(each) for each in quarantined],
                "early_work": vars(early),
                "commitment_not_reported": [vars(each) for each in unreported],
            }
        )
        return
    console.print(here.describe(), highlight=False)
    console.print(
        f"{held.studies} studies, {held.series_receiving} series arriving, {held.series_settled} settled, "
        f"{held.instances} images ({held.instance_bytes / 1e6:.0f} MB), {held.quarantined} objects in quarantine",
        highlight=False,
    )
    table = Table(title="Jobs", title_justify="left")
    for column in ("", *(state.lower() for state in JobState), "oldest waiting since"):
        table.add_column(column, justify="right" if column else "left")
    for kind in JobKind:
        numbers = [str(counts[kind, state]) for state in JobState]
        table.add_row(kind.lower(), *numbers, str(waiting[kind] or "-"))
    console.print(table)
    if early.waiting or early.confirmed or early.withdrawn:
        console.print(_early(early), highlight=False)
    _print_lines(
        "Not analysed",
        [f"{d.study_instance_uid} route {d.route}: {d.code}: {d.message}" for d in not_analysed],
    )
    _print_lines(
        "Not wanted",
        [f"{d.study_instance_uid} route {d.route or '-'}: {d.code}: {d.message}" for d in not_wanted],
    )
    _print_lines("Last failures", [f"job {f.job_id} attempt {f.attempt}: {f.message}" for f in failures])
    _print_lines("Done with reservations", [f"job {each.job_id}: {each.message}" for each in reservations])
    if any(NO_GPU in (each.message or "") for each in reservations):
        console.print(f"  {NO_GPU_FIX}", highlight=False, soft_wrap=True)
    _print_lines(
        "Quarantine",
        [f"{q.at:%Y-%m-%d %H:%M} {q.code}: {q.message} ({q.path or 'nothing kept'})" for q in quarantined],
    )
    _print_lines(
        "Storage commitment not reported",
        [
            f"{each.requested_at:%Y-%m-%d %H:%M} to {each.calling_ae_title}, transaction {each.transaction_uid}: "
            f"{each.state.lower()} after {each.attempts} tries: {each.last_error}"
            for each in unreported
        ],
    )


@jobs.command("list")
def list_jobs(
    config: ConfigOption = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only jobs of this kind.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only jobs of this study.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 30,
    json_output: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        found = history.list_jobs(connection, kind=kind, state=state, study_instance_uid=study, limit=limit)
    if json_output:
        print_json([vars(job) for job in found])
        return
    table = Table()
    for column in ("job", "kind", "state", "attempt", "what", "study", "last error"):
        table.add_column(column, overflow="fold")
    for job in found:
        attempt = f"{job.attempt}/{job.maximum_attempts}"
        table.add_row(
            str(job.job_id),
            job.kind,
            job.state,
            attempt,
            _what(job),
            job.study_instance_uid,
            job.last_error or "",
        )
    console.print(table)


@jobs.command()
def show(job_id: JobArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Show one job: its history, every error, and its result."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        job = queue.get_job(connection, job_id)
        lines = history.job_history(connection, job_id)
        result = results.result_of_job(connection, job_id)
    if json_output:
        print_json(
            {
                "job": vars(job),
                "history": [vars(line) for line in lines],
                "result": vars(result) if result else None,
            }
        )
        return
    console.print(
        f"job {job.job_id}: {job.kind} {_what(job)}, {job.state}, study {job.study_instance_uid}",
        highlight=False,
    )
    for line in lines:
        worker = f" by {line.worker}" if line.worker else ""
        console.print(
            f"  {line.at:%Y-%m-%d %H:%M:%S} {line.event:<8} -> {line.to_state:<9} attempt {line.attempt}{worker}"
            f"{': ' + line.message if line.message else ''}",
            markup=False,
            highlight=False,
        )
    for finding in result.summary if result else ():
        console.print(f"  {finding['label']}: {said_of(finding)}", markup=False, highlight=False)


@jobs.command()
def retry(job_id: JobArgument, config: ConfigOption = None) -> None:
    """Run a failed or cancelled job again, with all its attempts."""
    _change(config, job_id, queue.requeue)


@jobs.command()
def cancel(job_id: JobArgument, config: ConfigOption = None) -> None:
    """Cancel a job that waits, or ask the worker of a running one to stop."""
    _change(config, job_id, queue.cancel)


def _change(config: Any, job_id: int, change: Callable[[Connection, int, Any], Job]) -> None:
    settings = read_settings(config)
    with opened_database(settings) as engine, write_transaction(engine) as connection:
        job = change(connection, job_id, utc_now())
    Wake(settings.wake_folder).notify(Topic.INFER if job.kind is JobKind.INFER else Topic.DELIVER)
    asked = " (asked to stop)" if job.cancel_requested else ""
    console.print(f"job {job.job_id} is {job.state}{asked}", highlight=False)


def _early(early: EarlyWork) -> str:
    """What beginning before studies are whole has brought, in one line."""
    saved = (
        "" if early.median_saved_seconds is None else f", which saved {early.median_saved_seconds:.1f} s in the median"
    )
    return (
        f"Begun before the study was whole: {early.waiting} wait for it, {early.confirmed} delivered{saved}, "
        f"{early.withdrawn} given up"
    )


def _what(job: Job) -> str:
    return (
        f"{job.model} revision {job.revision}{' (early)' if job.speculative else ''}"
        if job.kind is JobKind.INFER
        else f"result {job.result_id} to {job.destination}"
    )


def _print_lines(title: str, lines: list[str]) -> None:
    if lines:
        console.print(f"\n{title}", style="bold")
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
