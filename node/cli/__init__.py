"""The `overread` command.

Exit codes: 0 done; 1 tried and failed (a peer refused, a model does not pass, a job is not there); 2 the command line
or the
configuration is wrong; 3 the images cannot be analysed; 130 interrupted.
"""

import sys

import typer

from node.cli import demo, files, inspect, models, network, run
from node.cli.shared import console_error
from node.errors import NotAnalysed, OverreadError
from node.settings import SettingsError

app = typer.Typer(
    name="overread",
    help="AI node for radiology: receives studies, runs models, sends back Segmentations and Structured Reports.",
    epilog="Exit codes: 0 done, 1 tried and failed, 2 wrong command line or configuration, 3 images cannot be "
    "analysed, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run.register(app)
files.register(app)
network.register(app)
inspect.register(app)
models.register(app)
demo.register(app)


def main() -> None:
    """Run the command; failures we know become one clear line and an exit code, never a traceback."""
    try:
        app()
    except SettingsError as error:
        console_error(str(error))
        sys.exit(2)
    except NotAnalysed as error:
        console_error(f"not analysed ({error.code}): {error}")
        sys.exit(3)
    except OverreadError as error:
        console_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
