"""Ways there and back for stacks as scanners make them, tilted and uneven, and for normalised values."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from node.infer.intensity import scale_intensities
from node.infer.output_sections import Label, Postprocessing
from node.infer.postprocess import make_decision
from node.infer.preprocessing_sections import Preprocessing
from node.volume import Grid
from tests.painting import painted

NORMAL = np.array([0.6, 0.48, 0.64])
LABEL = {"name": "half", "channels": [1], "type": {"value": "1", "meaning": "Thing"}, "rgb": (0, 0, 0)}

distances = st.lists(st.floats(0.8, 2.4), min_size=9, max_size=9)
tilts = st.floats(-0.6, 0.6)


def stack(distances_mm: list[float], tilt: float, shift_mm: tuple[float, ...]) -> Grid:
    """Slices at these distances, each shifted along its columns by `tilt` mm for each mm of them."""
    places = np.concatenate([[0.0], np.cumsum(distances_mm)])
    mean = places[-1] / len(distances_mm)
    affine = np.eye(4)
    affine[:3, 0] = mean * np.array([0, tilt, 1])
    affine[:3, 1], affine[:3, 2] = [0, 1.1, 0], [1.3, 0, 0]
    affine[:3, 3] = np.array(shift_mm) - affine[:3, :3] @ np.array([4.5, 7.5, 6.5])
    return Grid((len(places), 16, 14), affine, tuple(places / mean))


def depths_mm(grid: Grid) -> np.ndarray:
    """How far each voxel centre lies beyond a plane through the origin."""
    slices, rows, columns = grid.shape
    levels = np.arange(slices) if grid.levels is None else np.array(grid.levels)
    indices = np.stack(np.meshgrid(levels, np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return np.asarray((indices @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]) @ NORMAL)


@given(distances, tilts, st.tuples(*[st.floats(-2, 2)] * 3))
@settings(max_examples=30)
def test_the_border_of_a_label_moves_by_less_than_half_a_voxel(distances_mm, tilt: float, shift_mm) -> None:
    """What a model marks on its upright, even grid comes back on tilted, uneven slices."""
    source = stack(distances_mm, tilt, shift_mm)
    model = source.upright()
    assert model.levels is None
    inside = (depths_mm(model) > 0).astype(np.float32)
    decision = make_decision(Postprocessing(), (Label.model_validate(LABEL),), 2)
    half_diagonal = np.linalg.norm(model.spacing_mm) / 2
    for how in ("probabilities", "labels"):
        found = painted(np.stack([1 - inside, inside]), model, source, decision, how=how) == 1
        wrong = np.abs(depths_mm(source)[found != (depths_mm(source) > 0)])
        assert not wrong.size or wrong.max() <= half_diagonal


@given(
    st.sampled_from(
        [
            {"step": "z-score"},
            {"step": "z-score", "mean": 40.0, "deviation": 90.0},
            {"step": "min-max", "low": -1, "high": 1},
            {"step": "affine", "scale": 0.02, "offset": -3},
        ]
    ),
    arrays.arrays(np.float32, (3, 4, 5), elements=st.integers(-1000, 1000), unique=True),
)
@settings(max_examples=40)
def test_normalised_values_come_back(step: dict[str, object], image: np.ndarray) -> None:
    wanted = Preprocessing.model_validate({"orientation": "LPS", "spacing_mm": (1, 1, 1), "intensity": [step]})
    scaled = image.copy()
    (used,) = scale_intensities(scaled, image, wanted.intensity)
    np.testing.assert_allclose(used.invert(scaled), image, atol=2e-2)
