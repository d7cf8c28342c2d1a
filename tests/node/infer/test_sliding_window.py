"""Whole, patches and slices: same answers, shapes checked, MONAI's layout and weights."""

import numpy as np
import pytest
from scipy import ndimage

from node.infer.sections import Run
from node.infer.sliding_window import pad_to, patch_starts, patch_weights, run_network, tiles

IMAGE = np.random.default_rng(4).normal(size=(13, 17, 10)).astype(np.float32)


def doubled(tensor: np.ndarray, last: bool = True) -> np.ndarray:
    """Voxel by voxel, so that every mode gives the same: channels (x, 2x + 1)."""
    return np.concatenate([tensor, 2 * tensor + 1], axis=1)


def run(network=doubled, **fields) -> tuple[np.ndarray, list[float]]:
    shares: list[float] = []
    wanted = Run.model_validate(fields)
    scores = run_network(lambda batch, last: network(batch), IMAGE[None], wanted, shares.append)
    return scores.together(2), shares


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"multiple": (4, 8, 16), "padding_value": -3},
        {"mode": "slices", "batch": 4},
        {"mode": "slices", "multiple": (1, 8, 8)},
        {"mode": "slices", "patch": (1, 8, 6), "overlap": 0.5, "batch": 3},
        {"mode": "slices", "patch": (1, 32, 4), "overlap": 0.25, "blending": "constant"},
        {"mode": "sliding-window", "patch": (8, 8, 8), "overlap": 0.5},
        {"mode": "sliding-window", "patch": (8, 8, 8), "overlap": 0, "blending": "constant", "batch": 3},
        {"mode": "sliding-window", "patch": (16, 16, 16), "overlap": 0.25, "multiple": (8, 8, 8)},
    ],
)
def test_every_mode_gives_the_same(fields) -> None:
    scores, shares = run(**fields)
    np.testing.assert_allclose(scores, np.stack([IMAGE, 2 * IMAGE + 1]), atol=1e-5)
    assert scores.flags.c_contiguous
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)


def looking_around(tensor: np.ndarray) -> np.ndarray:
    """Two layers with a bias between that see 3 voxels around each, and beyond the sides zeros: as convolutions do."""
    kernel = np.linspace(-1, 1, 27, dtype=np.float32).reshape(3, 3, 3)
    spread = np.zeros((5, 5, 5), np.float32)
    spread[::2, ::2, ::2] = kernel[::-1]
    hidden = np.maximum(ndimage.convolve(tensor[0, 0], kernel, mode="constant") + 0.5, 0)
    return ndimage.convolve(hidden, spread, mode="constant")[None, None].repeat(2, axis=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"patch": (8, 8, 8)},
        {"patch": (7, 64, 9)},
        {"patch": (13, 17, 10)},
        {"patch": (10, 12, 12), "multiple": (2, 1, 3), "padding_value": 0},
    ],
)
def test_patches_with_a_halo_give_what_the_whole_gives(fields) -> None:
    whole, _ = run(looking_around, multiple=fields.get("multiple", (1, 1, 1)))
    seen: list[tuple[int, ...]] = []

    def network(tensor: np.ndarray) -> np.ndarray:
        seen.append(tensor.shape[2:])
        return looking_around(tensor)

    scores, _ = run(network, mode="sliding-window", halo=3, **fields)
    np.testing.assert_allclose(scores, whole, atol=1e-4)
    assert all(side <= most for sides in seen for side, most in zip(sides, fields["patch"], strict=True))
    assert all(
        side % step == 0 for sides in seen for side, step in zip(sides, fields.get("multiple", (1, 1, 1)), strict=True)
    )
    assert len(seen) > 1 or fields["patch"] == IMAGE.shape


def test_a_halo_that_is_too_small_shows() -> None:
    whole, _ = run(looking_around)
    scores, _ = run(looking_around, mode="sliding-window", patch=(8, 8, 8), halo=2)
    assert np.abs(scores - whole).max() > 0.1


def test_tiles_are_no_more_than_needed() -> None:
    assert tiles((100, 100, 100), (100, 80, 60), 20, (1, 1, 1)) == (
        (100, 50, 20),
        [[0], [0, 50], [0, 20, 40, 60, 80]],
    )
    assert tiles((224,), (160,), 45, (1,)) == ((112,), [[0, 112]])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mode": "whole"}, "halo when mode is sliding-window"),
        ({"mode": "sliding-window", "patch": (32, 32, 32), "batch": 2}, "batch = 1"),
        ({"mode": "sliding-window", "patch": (32, 32, 16)}, r"above \[16, 16, 16\]"),
        ({"mode": "sliding-window", "patch": (32, 32, 32), "small_patch": (32, 32, 16)}, "patch and small_patch above"),
        ({"mode": "sliding-window", "patch": (32, 32, 18), "multiple": (1, 1, 4)}, r"above \[16, 16, 22\]"),
    ],
)
def test_a_halo_that_does_not_fit(fields, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Run.model_validate({"halo": 8, **fields})


def test_padding_never_reaches_the_result() -> None:
    scores, _ = run(lambda tensor: np.full((1, 2, *tensor.shape[2:]), tensor.size, np.float32), multiple=(8, 8, 8))
    assert scores.shape == (2, *IMAGE.shape) and scores[0, 0, 0, 0] == 16 * 24 * 16


def test_progress_may_stop_it() -> None:
    def stop(share: float) -> None:
        if share > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_network(doubled, IMAGE[None], Run(mode="slices"), stop).together(2)


def test_patches_step_as_in_monai_and_end_flush() -> None:
    assert patch_starts((100, 8, 8), (32, 8, 8), 0.25)[0] == [0, 24, 48, 68]
    assert patch_starts((96, 8, 8), (64, 8, 8), 0.5)[0] == [0, 32]
    assert patch_starts((8, 8, 8), (8, 8, 8), 0.5) == [[0], [0], [0]]


def test_gaussian_weights_are_those_of_monai() -> None:
    weights = patch_weights((4, 6, 8), "gaussian")
    profiles = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (0.125 * n) ** 2)) for n in (4, 6, 8)]
    expected = np.maximum(np.einsum("i,j,k", *profiles), 1e-3)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_padding_is_at_the_far_end() -> None:
    padded = pad_to(np.ones((1, 2, 3, 4), np.float32), (1, 1, 6), (0, 0, 0), (2, 2, 4), -1)
    assert padded.shape == (1, 2, 4, 8)
    assert padded[0, :, :3, :4].min() == 1 and padded.sum() == 24 - (64 - 24)


def test_neighbours_stand_beside_their_slice_and_the_outermost_are_repeated() -> None:
    seen: list[np.ndarray] = []

    def network(batch: np.ndarray, last: bool) -> np.ndarray:
        seen.append(batch)
        assert last == (len(seen) == 7)
        return batch[:, 1:2]

    wanted = Run(mode="slices", neighbours=1, batch=2)
    scores = run_network(network, IMAGE[None], wanted, lambda share: None).together(1)
    np.testing.assert_array_equal(scores[0], IMAGE)
    planes = np.concatenate(seen)[:, :, 0]
    assert planes.shape == (13, 3, 17, 10)
    np.testing.assert_array_equal(planes[:, 0], IMAGE[[0, *range(12)]])
    np.testing.assert_array_equal(planes[:, 2], IMAGE[[*range(1, 13), 12]])
