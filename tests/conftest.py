"""Fixtures for every room, and the rule for counterparts that are not installed.

A test marked `counterpart("dcmtk")` needs a real program made by others. Where it is missing the test is left out and
the summary says so; with CI=true leaving any out is a failure.
"""

import logging
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.counterparts import leave_out
from tests.postgresql import PROGRAMS as POSTGRESQL_PROGRAMS
from tests.viewer import ohif

# A busy machine is no failure, and what is drawn is the same each time: chance is for long runs.
settings.register_profile(
    "patient",
    deadline=None,
    derandomize=os.environ.get("OVERREAD_SOAK") != "1",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")

BIN = Path(sys.executable).parent
COUNTERPARTS = {
    "dcmtk": ("storescu", "storescp", "dsrdump", "echoscu", "dcmdump"),
    "orthanc": ("Orthanc",),
    "rsyslog": ("rsyslogd",),
    "postgresql": ("initdb", "postgres", "setpriv"),
    "chromium": (next(filter(shutil.which, ohif.BROWSERS), ohif.BROWSERS[0]),),
    "curl": ("curl",),
    "openssl": ("openssl",),
    "dicom3tools": ("dciodvfy", "dcentvfy"),
    "dcmqi": ("segimage2itkimage", "tid1500reader"),
}


def program(name: str) -> str | None:
    """Path of a counterpart's program: from the environment's wheels, the PATH or the system folders."""
    folders = [str(BIN), os.environ.get("PATH", ""), "/usr/sbin", *map(str, POSTGRESQL_PROGRAMS)]
    return shutil.which(name, path=os.pathsep.join(folders))


def lacking(name: str) -> str:
    """Why a counterpart cannot be used here; empty when it can."""
    if name == "ohif":
        return ohif.missing()
    missing = [tool for tool in COUNTERPARTS[name] if program(tool) is None]
    return f"{name} is not installed ({', '.join(missing)}): make counterparts" if missing else ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("counterpart"):
        for name in marker.args:
            if reason := lacking(name):
                leave_out(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true whatever was skipped, for whatever reason, has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", f"left out, and CI=true leaves nothing out: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """It takes a download that is not in reach of every machine, and is told apart from what apt lacks."""
    if reason := ohif.missing():
        terminalreporter.section("THE BROWSER CHECK WAS LEFT OUT", red=True, bold=True)
        terminalreporter.line(f"Whether segmentations and reports open in OHIF was not tried: {reason}")


@pytest.fixture(autouse=True)
def logs_are_nobodys() -> Iterator[None]:
    """A command that a test calls sends the log of the process to that test's standard error, closed afterwards."""
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def demo_series() -> Path:
    """Folder of the real T1 brain MR series that the repository ships."""
    return Path(__file__).parent.parent / "config" / "demo" / "mni152-t1"
