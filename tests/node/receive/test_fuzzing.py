"""Any bytes at all: the corpus, a bounded search around it, and in `make soak` one that coverage leads (atheris)."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.receive import fuzzing
from tests.node.receive.fuzzing import CORPUS, TARGETS

SOAK = bool(os.environ.get("OVERREAD_SOAK"))
INPUTS = [(path.parent.name, path.name) for path in sorted(CORPUS.glob("*/*"))]


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fault that the association would only log is raised."""
    monkeypatch.setattr("node.receive.association.get_logger", lambda room: fuzzing.Faults())
    yield


@pytest.mark.parametrize(("target", "name"), INPUTS, ids=["-".join(each) for each in INPUTS])
def test_input_of_the_corpus(target: str, name: str) -> None:
    TARGETS[target]((CORPUS / target / name).read_bytes())


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """An input of the corpus with a few bytes replaced, put in, or taken out."""
    name = draw(st.sampled_from([name for each, name in INPUTS if each == target]))
    content = bytearray((CORPUS / target / name).read_bytes())
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, min(len(content), 3000)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=20_000 if SOAK else 80, deadline=None)
@given(data=st.data())
def test_changed_inputs(target: str, data: st.DataObject) -> None:
    TARGETS[target](data.draw(changed(target)))


if SOAK:  # a search of minutes

    @pytest.mark.parametrize("target", TARGETS)
    def test_search_led_by_coverage(target: str, tmp_path: Path) -> None:
        if importlib.util.find_spec("atheris") is None:
            pytest.fail("atheris is not installed (Linux only): pip install -e '.[fuzz]'")
        seconds = os.environ.get("OVERREAD_FUZZ_SECONDS", "300")
        command = [sys.executable, "-m", "tests.node.receive.fuzz_search", target, str(tmp_path)]
        done = subprocess.run(
            [*command, f"-max_total_time={seconds}"], cwd=CORPUS.parents[3], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
