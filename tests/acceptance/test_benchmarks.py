"""The benchmarks run, with as little as they can be given; what they print is for people to read."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["durable.py", "--rounds", "1", "--folder", "."], "one sync, past the page cache (the node)"),
        (["gpu.py", "--memory", "--device", "cpu", "--runs", "6", "--patch", "32"], "CPUExecutionProvider, 3 models"),
        (["infer.py", "--memory", "--classes", "5", "--shape", "64", "64", "64", "--patch", "32"], "5 classes"),
        pytest.param(
            ["receive.py", "--peer", "dcmtk", "--rounds", "1", "--count", "8"],
            "node/dcmtk: ",
            marks=pytest.mark.counterpart("dcmtk"),
        ),
        pytest.param(
            ["deliver.py", "--rounds", "1", "--objects", "2", "--megabytes", "0.1"],
            "ratio to ours",
            marks=pytest.mark.counterpart("dcmtk"),
        ),
    ],
    ids=["durable", "gpu", "infer", "receive", "deliver"],
)
def test_benchmark_runs(arguments: list[str], said: str, tmp_path: Path) -> None:
    script, *options = arguments
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert said in answer.stdout
