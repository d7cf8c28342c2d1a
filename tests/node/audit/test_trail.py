"""The trail on disk: appended by many, changed by nobody without a trace."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node.audit.events import application_activity, critical_notice
from node.audit.message import Source
from node.audit.trail import Trail, files, last_line, lines, link, read_line, verify

JANUARY = datetime(2030, 1, 31, 23, 59, tzinfo=UTC)
EVENT = application_activity("NODE", "listen", starts=True)


def trail_in(folder: Path, now: datetime = JANUARY, **more) -> Trail:
    return Trail(folder / "audit", Source("NODE"), "listen", now=lambda: now, **more)


def test_lines_follow_each_other_over_files_and_processes(tmp_path: Path):
    trail_in(tmp_path).record(EVENT)
    trail_in(tmp_path, datetime(2030, 2, 1, tzinfo=UTC)).record(EVENT)
    trail_in(tmp_path, JANUARY).record(EVENT)  # a clock that was set back does not go back to the old file
    assert [path.name for path in files(tmp_path / "audit")] == ["2030-01.log", "2030-02.log"]
    assert verify(tmp_path / "audit") == (3, [])
    assert [line.number for _, _, raw in lines(tmp_path / "audit") if (line := read_line(raw))] == [1, 2, 3]


def change_text(content: bytes) -> bytes:
    return content.replace(b"Application Start", b"Application Stop!", 1)


def take_line_out(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:1] + content.splitlines(keepends=True)[2:])


def swap_lines(content: bytes) -> bytes:
    first, second, *rest = content.splitlines(keepends=True)
    return b"".join([second, first, *rest])


def put_line_in(content: bytes) -> bytes:
    return content + content.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("change", [change_text, take_line_out, swap_lines, put_line_in])
def test_changed_trail_is_found(tmp_path: Path, change: Callable[[bytes], bytes]):
    for _ in range(4):
        trail_in(tmp_path).record(EVENT)
    (path,) = files(tmp_path / "audit")
    path.write_bytes(change(path.read_bytes()))
    _, damages = verify(tmp_path / "audit")
    assert damages and damages[0].file == "2030-01.log"


def test_line_that_was_forged_with_a_hash_of_its_own_is_found_by_the_next(tmp_path: Path):
    for _ in range(4):
        trail_in(tmp_path).record(EVENT)
    (path,) = files(tmp_path / "audit")
    first, second, *rest = path.read_text().splitlines()
    number, _, what = change_text(second.encode()).decode().split(" ", 2)
    forged = f"{number} {link(first.split(' ')[1], int(number), what)} {what}"
    path.write_text("\n".join([first, forged, *rest]) + "\n")
    _, damages = verify(tmp_path / "audit")
    assert [damage.line for damage in damages] == [3]


def test_older_files_may_be_taken_away(tmp_path: Path):
    for month in (1, 2, 3):
        trail_in(tmp_path, datetime(2030, month, 1, tzinfo=UTC)).record(EVENT)
    files(tmp_path / "audit")[0].unlink()
    assert verify(tmp_path / "audit") == (2, [])


@pytest.mark.parametrize("kept", range(1, 120, 7))
def test_line_that_a_crash_cut_off_is_damage_and_the_chain_goes_on(tmp_path: Path, kept: int):
    trail_in(tmp_path).record(EVENT)
    whole = files(tmp_path / "audit")[0].read_bytes()
    trail_in(tmp_path).record(EVENT)
    (path,) = files(tmp_path / "audit")
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    trail_in(tmp_path).record(EVENT)
    intact, damages = verify(tmp_path / "audit")
    assert intact == 2 and [damage.line for damage in damages] == [2]
    assert last_line(tmp_path / "audit").number == 2


def test_last_line_is_found_behind_much_damage(tmp_path: Path):
    trail_in(tmp_path).record(EVENT)
    with files(tmp_path / "audit")[0].open("ab") as file:
        file.write(b"x" * 200_000)
    trail_in(tmp_path).record(EVENT)
    assert last_line(tmp_path / "audit").number == 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff" * 9 + b" " + b"0" * 64 + b" t p <A></AuditMessage>",
        b"1 " + b"0" * 64 + b" \xff \xfe <\xff</AuditMessage>",
        b"9" * 5000 + b" " + b"0" * 64 + b" t p <A></AuditMessage>",
    ],
)
def test_line_of_any_bytes_stops_nothing(tmp_path: Path, damaged: bytes):
    trail_in(tmp_path).record(EVENT)
    with files(tmp_path / "audit")[0].open("ab") as file:
        file.write(damaged + b"\n")
    with capture_logs() as said:
        trail_in(tmp_path).record(EVENT)
    assert not said
    intact, damages = verify(tmp_path / "audit")
    assert intact == 2 and damages


def test_threads_and_processes_write_one_chain(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path\n"
        "from node.audit.message import Source; from node.audit.trail import Trail\n"
        "from node.audit.events import application_activity\n"
        "trail = Trail(Path(sys.argv[1]), Source('NODE'), 'work', sync='none')\n"
        "for _ in range(50): trail.record(application_activity('NODE', 'work', starts=True))\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "audit")])
    threads = [
        threading.Thread(
            target=lambda: [trail_in(tmp_path, datetime.now(UTC), sync="none").record(EVENT) for _ in range(25)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    assert verify(tmp_path / "audit") == (150, [])


def test_trail_that_cannot_be_written_stops_nothing_and_is_said(tmp_path: Path):
    (tmp_path / "audit").write_text("in the way")
    with capture_logs() as said:
        trail_in(tmp_path).record(EVENT)
    assert [line["event"] for line in said] == ["audit_message_lost"]


def test_patient_is_named_only_where_it_is_wanted(tmp_path: Path):
    event = critical_notice("NODE", "TOLD", "AB12", "1.2.3", "on-call")
    trail_in(tmp_path).record(event)
    trail_in(tmp_path, find_patient=lambda uid: f"CANARY of {uid}").record(event)
    first, second = (raw.decode() for _, _, raw in lines(tmp_path / "audit"))
    assert "CANARY" not in first and 'ParticipantObjectID="CANARY of 1.2.3"' in second
    assert 'csd-code="2" codeSystemName="RFC-3881"' in second
