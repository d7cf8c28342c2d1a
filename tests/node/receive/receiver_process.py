"""Receivers in processes of their own, to be killed: imports once, then forks one receiver for each line it reads.

Each line of standard input is a JSON object, `data_dir` and `dimse`. The answer is a line with process id and port;
then the receiver runs until it is killed. The end of input ends the program.
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
from typing import Any

from node.logs import configure_logs
from node.receive.storage_scp import StorageScp
from node.settings import DimseSettings, NodeSettings, Settings
from node.store.database import migrate, open_database
from node.store.files import FileStore


class Receivers:
    """Starts receivers for a test; `kill` ends one as a crash would."""

    def __init__(self) -> None:
        root = Path(__file__).parents[3]
        self._zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def start(self, data_dir: Path, **dimse: Any) -> tuple[int, int]:
        """Process id and port of a receiver that serves `data_dir`."""
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps({"data_dir": str(data_dir), "dimse": dimse}) + "\n")
        self._zygote.stdin.flush()
        answer = json.loads(self._zygote.stdout.readline())
        return answer["pid"], answer["port"]

    def kill(self, pid: int) -> None:
        """End a receiver as a crash would; returns when it is gone, with its sockets."""
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(0.002)

    def close(self) -> None:
        """End them all, the one they are forked from too."""
        os.killpg(self._zygote.pid, signal.SIGKILL)
        self._zygote.communicate()


def _serve(request: dict[str, Any]) -> None:
    data_dir = Path(request["data_dir"])
    settings = Settings(
        node=NodeSettings(data_dir=data_dir),
        dimse=DimseSettings(**{"host": "127.0.0.1", "port": 0, "free_disk_mb": 0, **request["dimse"]}),
    )
    migrate(settings.database_url, None)
    scp = StorageScp(settings, open_database(settings.database_url), FileStore(data_dir), lambda: None)
    scp.start()
    print(json.dumps({"pid": os.getpid(), "port": scp.bound_port}), flush=True)
    threading.Event().wait()


def _main() -> None:
    configure_logs(level="error")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed receivers leave no zombies
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(json.loads(line))


if __name__ == "__main__":
    _main()
