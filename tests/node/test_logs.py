"""What may reach the streams of a process."""

import subprocess
import sys

WARNS = """
import warnings
from node.logs import configure_logs, get_logger
configure_logs()
warnings.warn("Invalid value for VR UI: 'CANARY^PATIENT'.")
get_logger("receive").info("alive")
"""


def test_warnings_of_libraries_stay_out_because_they_quote_values() -> None:
    ran = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, timeout=180, check=True)
    assert "alive" in ran.stderr
    assert "CANARY" not in ran.stdout + ran.stderr


def test_text_has_colours_on_a_terminal_only() -> None:
    said = WARNS.replace("configure_logs()", "configure_logs('text')")
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, timeout=60, check=True)
    assert "alive" in ran.stderr
    assert "\x1b" not in ran.stderr
