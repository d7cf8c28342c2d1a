"""HTTP servers in processes of their own, to be killed: imports once, then forks one server for each line it reads.

Each line of standard input is a data directory. The answer is a line with process id and port; then the server runs
until it is killed. The end of input ends the program.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from node.logs import configure_logs
from node.settings import DimseSettings, NodeSettings, Settings
from node.store.database import migrate, open_database
from node.store.files import FileStore
from node.web.server import WebServer
from node.web_settings import WebSettings


class WebProcesses:
    """Starts servers for a test."""

    def __init__(self) -> None:
        self._zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )

    def start(self, data_dir: Path) -> tuple[int, int]:
        """Process id and port of a server that serves `data_dir`."""
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.write(f"{data_dir}\n")
        self._zygote.stdin.flush()
        answer = json.loads(self._zygote.stdout.readline())
        return answer["pid"], answer["port"]

    def kill(self, pid: int) -> None:
        """End a server as a crash would; returns when it is gone, with its sockets."""
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(0.002)

    def close(self) -> None:
        """End them all, the one they are forked from too."""
        os.killpg(self._zygote.pid, signal.SIGKILL)
        self._zygote.communicate()


def _serve(data_dir: Path) -> None:
    settings = Settings(
        node=NodeSettings(data_dir=data_dir),
        dimse=DimseSettings(free_disk_mb=0),
        web=WebSettings(enabled=True, port=0, allow_anonymous=True),
    )
    migrate(settings.database_url, None)
    server = WebServer(settings, open_database(settings.database_url), FileStore(data_dir), lambda: None)
    server.start()
    print(json.dumps({"pid": os.getpid(), "port": server.bound_port}), flush=True)
    threading.Event().wait()


def _main() -> None:
    configure_logs(level="error")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed servers leave no zombies
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(Path(line.strip()))


if __name__ == "__main__":
    _main()
