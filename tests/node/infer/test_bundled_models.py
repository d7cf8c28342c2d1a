"""The models that the repository ships: manifests right, files those that they name, networks load."""

from pathlib import Path

import pytest

from node.infer import check_model

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[3] / "config" / "models").glob("*/model.toml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_bundled_model_passes_its_check(folder: Path) -> None:
    assert check_model(folder, threads=1) == []
