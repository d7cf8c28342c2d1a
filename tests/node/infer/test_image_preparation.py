"""Images cut, resized, mirrored and padded: weights known on paper, and the way back to the pixels exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset

from node.infer.image_preparation import otsu, pixel_grid, prepare_images, resize_weights
from node.infer.preparation import Prepared
from node.infer.preprocessing_sections import ImagePreprocessing
from node.infer.regions import Found
from node.infer.transforms import index_map
from node.volume.images import ImageSet


def image(pixels: np.ndarray, **attributes: str) -> ImageSet:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    frames = pixels[None] if pixels.ndim == 2 else pixels
    return ImageSet(frames, header, None, None, (), "1.2.3")


def prepared(given: ImageSet, found: dict[str, Found] | None = None, **fields: object) -> Prepared:
    wanted = ImagePreprocessing.model_validate({"dimensions": 2} | fields)
    return prepare_images({"image": given}, ["image"], wanted, found or {})


RAMP = np.arange(24 * 36, dtype=np.float32).reshape(24, 36)


def test_area_is_the_mean_of_what_is_covered() -> None:
    found = prepared(image(RAMP), size=(6, 9)).image[0, 0]
    np.testing.assert_allclose(found, RAMP.reshape(6, 4, 9, 4).mean(axis=(1, 3)), rtol=1e-6)
    weights = resize_weights(5, 2, "area").toarray()
    np.testing.assert_allclose(weights, [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "how"), [((11, 17), Image.Resampling.BILINEAR), ((50, 70), Image.Resampling.BILINEAR)]
)
def test_linear_with_antialiasing_is_that_of_pillow(size: tuple[int, int], how: Image.Resampling) -> None:
    expected = np.asarray(Image.fromarray(RAMP).resize(size[::-1], how))
    found = prepared(image(RAMP), size=size, interpolation="linear-antialias").image[0, 0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("how", ["area", "linear", "linear-antialias", "cubic", "nearest"])
@pytest.mark.parametrize(("length", "size"), [(7, 7), (7, 3), (3, 7), (100, 33), (1, 5), (5, 1)])
def test_weights_add_up_to_one(how, length: int, size: int) -> None:
    np.testing.assert_allclose(resize_weights(length, size, how).sum(axis=1), 1, rtol=1e-5)


@given(
    st.integers(3, 40),
    st.integers(3, 40),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(["stretch", "pad", "cut", "keep"]),
    st.sampled_from(["start", "middle"]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_pixel_of_the_tensor_lies_where_it_says(rows, columns, height, width, fit, anchor, mirrored) -> None:
    """Coordinates as pixels: nearest of them at each place of the tensor is what its grid says."""
    for axis, side in ((0, rows), (1, columns)):
        place = np.broadcast_to(
            np.arange(side, dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1)), (rows, columns)
        )
        given_image = image(place.copy(), ImageLaterality="R" if mirrored else "L")
        found = prepared(
            given_image,
            size=(height, width),
            fit=fit,
            anchor=anchor,
            mirror="right",
            interpolation="nearest",
            padding_value=-1,
        )
        matrix, offset = index_map(pixel_grid(given_image), found.grid)
        indices = np.arange(found.grid.shape[axis + 1]) * matrix[axis + 1, axis + 1] + offset[axis + 1]
        values = found.image[0, 0].max(axis=1 - axis)
        for index, value in zip(indices, values, strict=True):
            if value >= 0:
                assert abs(index - value) <= 0.5 + 1e-4
            else:
                assert index < -0.49 or index > side - 0.51


def test_padding_lies_at_the_far_ends_or_around() -> None:
    small = np.ones((4, 8), np.float32)
    start = prepared(image(small), size=(8, 8), fit="pad", padding_value=-1).image[0, 0]
    assert (start[:4] == 1).all() and (start[4:] == -1).all()
    middle = prepared(image(small), size=(8, 8), fit="pad", anchor="middle", padding_value=-1).image[0, 0]
    assert (middle[2:6] == 1).all() and middle[:2].max() == middle[6:].max() == -1


def test_foreground_is_the_largest_bright_part() -> None:
    pixels = np.zeros((40, 50), np.float32)
    pixels[10:30, 5:25] = 100
    pixels[0:3, 45:50] = 100  # a marker
    found = prepared(image(pixels), foreground={"margin_pixels": 1})
    assert found.image.shape == (1, 1, 22, 22)
    np.testing.assert_allclose(found.grid.affine_lps[:3, 3], [0, 9, 4])
    assert 0 <= otsu(pixels) < 100
    whole = prepared(image(pixels * 0), foreground={})
    assert whole.image.shape == (1, 1, 40, 50)


def test_colours() -> None:
    rgb = np.zeros((1, 2, 2, 3), np.uint8)
    rgb[..., 0] = 100
    assert prepared(image(rgb), colours=3).image[:, 0, 0, 0].tolist() == [100, 0, 0]
    np.testing.assert_allclose(prepared(image(rgb)).image, 29.9, rtol=1e-5)
    grey = prepared(
        image(RAMP), colours=3, intensity=[{"step": "z-score", "mean": [0, 1, 2], "deviation": [1, 1, 2]}]
    ).image
    np.testing.assert_allclose(grey[:, 0], [RAMP, RAMP - 1, (RAMP - 2) / 2], rtol=1e-6)


def test_a_region_of_an_earlier_stage_crops_an_image() -> None:
    labels = np.zeros((1, 24, 36), np.uint8)
    labels[0, 4:10, 6:20] = 1
    grid = pixel_grid(image(RAMP))
    found = {"lungs": Found(grid, (labels,), {"Lung": 1})}
    region = {"stage": "lungs", "use": "crop", "margin_pixels": 2}
    cut = prepared(image(RAMP), found, regions=[region])
    np.testing.assert_array_equal(cut.image[0, 0], RAMP[2:12, 4:22])
    masked = prepared(image(RAMP), found, regions=[{"stage": "lungs", "use": "mask", "value": -1}]).image[0, 0]
    np.testing.assert_array_equal(masked, np.where(labels[0] == 1, RAMP, -1))
    (_, channel) = prepared(image(RAMP), found, regions=[{"stage": "lungs", "use": "channel"}], size=(12, 18)).image
    assert channel.shape == (1, 12, 18) and channel.sum() == 3 * 7
