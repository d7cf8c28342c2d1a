"""Settling by evidence against timers, on every recorded trace; and what choosing and explaining cost.

    .venv/bin/python benchmarks/settle.py [--trace NAME ...] [--choosing]

For each trace: settlings before the last image ("early") and seconds from the last image to the settling that held,
with the archive's count, with the default evidence, and how often timers of 5, 60 and 900 s would have fired early.
Traces marked * hold nothing that says that more images will come.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from node.infer.manifest import load_manifest
from node.logs import configure_logs
from node.route_settings import Match, Route
from node.select.decide import as_plain, decide
from node.select.stack import shape_of
from tests.node.select.examples import series
from tests.replay import Outcome, Trace, replay, timer, traces

TIMERS_SECONDS = (5, 60, 900)
BUDGET_MS = 5.0


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="append", default=[], help="only this trace; may be repeated")
    parser.add_argument("--choosing", action="store_true", help="only the cost of choosing and explaining")
    arguments = parser.parse_args()
    configure_logs("text", "error")
    if not arguments.choosing:
        print_table(arguments.trace)
    print_choosing()


def print_table(wanted: list[str]) -> None:
    """All traces, or those wanted."""
    print(f"{'trace':34} {'with the archive’s count':>34} {'default evidence':>34}   timers: early runs")
    heads = f"{'early':>5} {'wait s':>7} {'by':>20}"
    print(f"{'':34} {heads} {heads}   {' '.join(f'{seconds:>4} s' for seconds in TIMERS_SECONDS)}")
    for trace in traces():
        if not wanted or trace.name in wanted:
            print(row(trace), flush=True)


def print_choosing(images: int = 2000, series_count: int = 8, rounds: int = 30) -> None:
    """Median CPU seconds of the pure work on a study of so many images: weigh, choose, explain.

    Three routes with a model of its own each, so that nothing is answered twice.
    """
    config = Path(__file__).parent.parent / "config"
    manifest = load_manifest(config / "models" / "brain-ventricles")
    manifests = {f"model-{number}": manifest for number in range(3)}
    routes = [
        Route(name=f"r{number}", models=(name,), match=Match(modality=("MR",), minimum_instances=2))
        for number, name in enumerate(manifests)
    ]
    study = [series(f"1.{number}", slices=images // series_count, gap_mm=1.0) for number in range(series_count)]
    weighing, choosing, explaining = [], [], []
    for _ in range(rounds):
        started = time.thread_time()
        for each in study:
            shape_of([one.geometry for one in each.instances])
        weighed = time.thread_time()
        trace = decide(study, routes, manifests)
        chosen = time.thread_time()
        as_plain(trace)
        explained = time.thread_time()
        weighing.append(weighed - started)
        choosing.append(chosen - weighed)
        explaining.append(explained - chosen)
    print(f"\n{images} images in {series_count} series, {len(routes)} routes and models, CPU, median of {rounds}:")
    for name, seconds in (("is it a whole stack", weighing), ("choose", choosing), ("explain", explaining)):
        print(f"  {name:22} {median(seconds) * 1000:6.2f} ms")
    totals = [(a + b) * 1000 for a, b in zip(choosing, explaining, strict=True)]
    both = median(totals)
    print(f"  {'choose and explain':22} {both:6.2f} ms, at best {min(totals):.2f} ms; budget {BUDGET_MS:g} ms")


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
