"""Exactly one build of ONNX Runtime: `onnxruntime-gpu` and `onnxruntime` install the same files over each other."""

from collections.abc import Collection
from importlib import metadata

from node.errors import Permanent

BUILDS = ("onnxruntime-gpu", "onnxruntime")
WHAT_TO_DO = (
    "pip uninstall --yes onnxruntime onnxruntime-gpu, then pip install --force-reinstall of the one wanted: "
    "onnxruntime-gpu on Linux and Windows x86-64 (it runs on the CPU, too), onnxruntime elsewhere"
)


def installed_builds() -> tuple[str, ...]:
    """The builds of ONNX Runtime in this environment."""
    found = []
    for name in BUILDS:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def check_builds(installed: Collection[str]) -> None:
    """Whether exactly one build is installed.

    Raises
    ------
    Permanent
        With what to do, when there are none or both: which of two was installed last decides what runs, and removing
        one breaks the other.
    """
    if len(installed) != 1:
        found = " and ".join(installed) or "neither onnxruntime-gpu nor onnxruntime"
        raise Permanent(f"found {found}, expected exactly one of {' and '.join(BUILDS)}: {WHAT_TO_DO}")
