"""`overread send` and `overread echo`: a DICOM peer tried by hand."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from node.cli.shared import JsonOption, console, parse_peer, print_json
from node.deliver.echo import echo as verify
from node.deliver.folder import send_folder
from node.logs import configure_logs
from node.settings import Destination

ToOption = Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="The peer.")]
CalledOption = Annotated[str, typer.Option("--called-ae", help="AE title of the peer.")]
CallingOption = Annotated[str, typer.Option("--calling-ae", help="Our AE title.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Longest wait for the peer, in seconds.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(send)
    app.command()(echo)


def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.", exists=True)],
    to: ToOption,
    called_ae: CalledOption,
    calling_ae: CallingOption = "OVERREAD",
    timeout: TimeoutOption = 60,
    json_output: JsonOption = False,
) -> None:
    """Send DICOM files to a peer by C-STORE, as they are on disk."""
    configure_logs("text", "warning")
    started = time.monotonic()
    with _progress(disable=json_output) as progress:
        task = progress.add_task("Sending", total=None)
        report = send_folder(
            _peer(to, called_ae),
            calling_ae,
            paths,
            timeout,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    seconds = round(time.monotonic() - started, 2)
    refused = [answer for answer in report.answers if not answer.is_delivered]
    if json_output:
        print_json(
            {
                "sent": len(report.answers) - len(refused),
                "refused": [{"sop_instance_uid": a.sop_instance_uid, "status": f"{a.status:04X}"} for a in refused],
                "skipped": [{"path": path, "reason": reason} for path, reason in report.skipped],
                "seconds": seconds,
            }
        )
    else:
        console.print(
            f"{len(report.answers) - len(refused)} objects sent to {called_ae} at {to} in {seconds} s",
            highlight=False,
        )
        for path, reason in report.skipped[:10]:
            console.print(f"  skipped {path}: {reason}", highlight=False, markup=False)
        if len(report.skipped) > 10:
            console.print(f"  ... and {len(report.skipped) - 10} more files skipped")
        for answer in refused[:10]:
            console.print(
                f"  refused with status {answer.status:04X}: {answer.sop_instance_uid}",
                style="red",
                markup=False,
            )
    if refused or not report.answers:
        raise typer.Exit(1)


def echo(
    to: ToOption,
    called_ae: CalledOption,
    calling_ae: CallingOption = "OVERREAD",
    timeout: TimeoutOption = 10,
    json_output: JsonOption = False,
) -> None:
    """Ask a peer whether it is there and knows us (C-ECHO)."""
    configure_logs("text", "warning")
    answer = verify(_peer(to, called_ae), calling_ae, timeout)
    if json_output:
        print_json(vars(answer))
    else:
        milliseconds = 1000 * (answer.associate_seconds + answer.echo_seconds)
        console.print(f"{called_ae} at {to} answered {answer.status:04X} in {milliseconds:.0f} ms", highlight=False)
    if answer.status != 0:
        raise typer.Exit(1)


def _peer(to: str, called_ae: str) -> Destination:
    host, port = parse_peer(to)
    return Destination(name="peer", ae_title=called_ae, host=host, port=port)


def _progress(disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=disable,
    )
