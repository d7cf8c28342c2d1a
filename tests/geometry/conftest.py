"""The node's way from files to a segmentation on disk, with a threshold model, for phantoms."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_sr import conformance
from dicom_sr.profile import CONSERVATIVE
from dicom_sr.render import render
from node.infer import Registry
from node.infer import analyse as analyse_volume
from node.pipeline import AnalysisRequest, build_result
from node.volume import load_volume
from tests.models import threshold_network, write_model

Segment = Callable[[Sequence[Path], Path], tuple[str, ...]]


@pytest.fixture(scope="session")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """Marks what is brighter than 550 in these files, writes the segmentation, and gives the remarks of the result.

    The steps are those of `node.pipeline.run_analysis`, without the preview and without waiting for the disk.
    """
    models = tmp_path_factory.mktemp("models")
    write_model(models / "bright", "bright", threshold_network(550.0))
    model = Registry([models]).get("bright")

    def run(paths: Sequence[Path], target: Path) -> tuple[str, ...]:
        request = AnalysisRequest(tuple(paths), "0" * 64, 1, datetime(2024, 3, 5, 10, 11, tzinfo=UTC))
        volume = load_volume(request.paths)
        result = build_result(request, model, volume, analyse_volume(model, volume, device="cpu", threads=1))
        objects = render(result, volume.headers, CONSERVATIVE)
        assert conformance.check([each.dataset for each in objects], volume.headers) == []
        target.write_bytes(objects[0].to_bytes())
        return result.remarks

    return run
