"""Settling by evidence against timers, on every recorded trace; and what choosing and explaining cost.

    .venv/bin/python benchmarks/settle.py [--trace NAME ...]

For each trace: settlings before the last image ("early") and seconds from the last image to the settling that held,
with the archive's count, with the default evidence, and how often timers of 5, 60 and 900 s would have fired early.
Traces marked * hold nothing that says that more images will come.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from node.logs import configure_logs
from tests.replay import Outcome, Trace, replay, timer, traces

TIMERS_SECONDS = (5, 60, 900)


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="append", default=[])
    wanted = parser.parse_args().trace
    configure_logs("text", "error")
    print(f"{'trace':34} {'with the archive’s count':>34} {'default evidence':>34}   timers: early runs")
    heads = f"{'early':>5} {'wait s':>7} {'by':>20}"
    print(f"{'':34} {heads} {heads}   {' '.join(f'{seconds:>4} s' for seconds in TIMERS_SECONDS)}")
    for trace in traces():
        if not wanted or trace.name in wanted:
            print(row(trace), flush=True)


def row(trace: Trace) -> str:
    """One line of the table."""
    name = trace.name + ("" if trace.has_evidence else " *")
    cells = [cell(run(trace, with_archive=archive)) for archive in (True, False)]
    timers = " ".join(f"{timer(trace, seconds):>6}" for seconds in TIMERS_SECONDS)
    return f"{name:34} {' '.join(cells)}   {timers}"


def run(trace: Trace, *, with_archive: bool) -> Outcome:
    """Replay in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        return replay(trace, Path(folder), with_archive=with_archive)


def cell(outcome: Outcome) -> str:
    """Outcome in columns."""
    return f"{outcome.premature:>5} {outcome.waited_seconds:>7.1f} {outcome.settled_by[:20]:>20}"


if __name__ == "__main__":
    main()
