"""Search for inputs that break the receiver, led by coverage (atheris: libFuzzer for Python, with its options).

    python -m tests.node.receive.fuzz_search association|header|command|multipart FOLDER [-max_total_time=60]

New inputs that reach further are kept in FOLDER. One that fails is written to FOLDER/failed-..., and ends the search
with an error: it belongs into `corpus/<target>/` once it is understood.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["node.receive"]):
    from tests.node.receive import fuzzing


def main() -> None:
    target, folder, *options = sys.argv[1:]
    fuzzing.silence()
    corpora = [folder, str(fuzzing.CORPUS / target)]  # the first is written to
    arguments = [sys.argv[0], *corpora, f"-artifact_prefix={Path(folder)}/failed-", "-max_len=4096", *options]
    atheris.Setup(arguments, fuzzing.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
