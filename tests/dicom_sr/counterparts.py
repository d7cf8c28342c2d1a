"""What programs made by others say of an object."""

import subprocess
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_sr.profile import Role
from dicom_sr.render import RenderedObject
from tests.conftest import program

NOISE = (
    "DeviceUID",  # type 3 in PS3.3 Table C.12-1, not yet known to dicom3tools
    "Standard Extended SOP Class",  # said of the same
    "VR checker does not support this Specific Character Set",  # dcmtk 3.6.7 on UTF-8
    "Element=<AccessionNumber> IE <Study> versus <Series>",  # dcentvfy on any pair of SEG and MR, also highdicom's own
    "<99OVERREAD>",  # private coding schemes are allowed
    "Retired Person Name form",  # a name without ^, copied from the images
    "StudyID",  # "needed to build DICOMDIR", copied from the images
    "Shall not be present for Referenced SOP Class that is not segmentation",  # dicom3tools on a Label Map Segmentation
    "Laterality(0020,0060)> - is only permitted to be empty when actually unknown",  # it is: the images do not say it
    "Laterality(0020,0060)> - is only permitted to be empty when actually unknown",  # it is unknown to us
    "Check for template constraints not yet supported",  # dcmtk 3.6.7 on every KOS
)
STARTS = ("Error", "Warning", "E:", "W:", "F:", "ERROR", "WARN")


def run(name: str, *arguments: str | Path) -> str:
    """Everything that a counterpart prints; it must end well."""
    tool = program(name)
    assert tool is not None
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def complaints(output: str) -> list[str]:
    """Lines that are errors or warnings, but for the known noise."""
    lines = (line.strip() for line in output.splitlines())
    return [line for line in lines if line.startswith(STARTS) and not any(text in line for text in NOISE)]


def assert_clean(dataset: Dataset, folder: Path) -> Path:
    """dciodvfy has nothing to say, nor dsrdump of a structured report; the file."""
    path = folder / f"{dataset.SOPInstanceUID}.dcm"
    path.write_bytes(RenderedObject(Role.REPORT, dataset).to_bytes())
    assert complaints(run("dciodvfy", "-new", path)) == []
    if dataset.Modality in ("SR", "KO"):
        assert complaints(run("dsrdump", path)) == []
    return path
