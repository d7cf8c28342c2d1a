"""The golden matrix: a shape known in millimetres, in every geometry, found where it is by three readers, or refused.

Each cell goes from files through the node to a segmentation on disk, which is read back by plain arithmetic on its
attributes, by highdicom and by dcmqi (ITK). All agree with the shape in patient space.
"""

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy.spatial import cKDTree

from node.errors import NotAnalysed
from tests.geometry.conftest import SHIFT, Segment
from tests.geometry.phantom import (
    CENTRE_MM,
    Scan,
    dice,
    is_inside,
    read_array_by_dcmqi,
    read_by_arithmetic,
    read_by_dcmqi,
    read_by_highdicom,
    read_frames_by_arithmetic,
    read_frames_by_highdicom,
    read_volume_by_highdicom,
    run_dcmqi,
    signed_axes,
    write_frames_alone,
)

AXES = signed_axes()
PLANES = {"axial": (0, 1), "sagittal": (1, 2), "coronal": (0, 2)}
PATIENT_POSITIONS = ("HFS", "HFP", "FFS", "FFP")
FLIPS = tuple(itertools.product((1, -1), repeat=2))

VARIANTS: dict[str, Callable[[Scan], Scan]] = {
    "oblique": lambda scan: scan.turned(0.41),
    "anisotropic": lambda scan: replace(
        scan, places_mm=tuple(4.7 * (i - 4.4) for i in range(10)), pixel_mm=(0.9, 0.9), rows=56, columns=60
    ),
    "overlapping": lambda scan: replace(scan, thickness_mm=5.0),
    "reversed-order": lambda scan: replace(scan, places_mm=scan.places_mm[::-1]),
    "reversed-numbers": lambda scan: replace(scan, reversed_numbers=True),
    "non-square": lambda scan: replace(scan, pixel_mm=(1.1, 1.9), rows=46, columns=30),
    "ct": lambda scan: replace(scan, modality="CT"),
    "everything": lambda scan: replace(
        scan.turned(-0.7), places_mm=scan.places_mm[::-1], reversed_numbers=True, pixel_mm=(1.9, 1.2), thickness_mm=4.0
    ),
}
ENHANCED: dict[str, Callable[[Scan], Scan]] = {
    "upright": lambda scan: scan,
    "any-order": lambda scan: replace(
        scan,
        places_mm=tuple(random.Random(4).sample(scan.places_mm, len(scan.places_mm))),
        pixel_mm=(1.9, 1.2),
        modality="CT",
    ),
    "oblique": VARIANTS["oblique"],
}
UNEVEN_STEPS_MM = (*(1.5 * i for i in range(-15, 0)), *(2.6 * i for i in range(12)))
"""Thin slices below the middle of the shape, thick ones above it."""

TILTED: dict[str, Callable[[Scan], Scan]] = {
    "tilt": lambda scan: replace(scan, tilt=0.21, modality="CT"),
    "tilt-against": lambda scan: replace(scan, tilt=-0.36, places_mm=scan.places_mm[::-1]),
    "tilt-oblique": lambda scan: replace(scan.turned(0.41), tilt=0.47, pixel_mm=(1.1, 1.4), rows=50, columns=42),
}
UNEVEN: dict[str, Callable[[Scan], Scan]] = {
    "uneven": lambda scan: replace(scan, places_mm=tuple(2.0 * (i - 10.3) + 0.04 * i * i for i in range(18))),
    "uneven-steps": lambda scan: replace(scan, places_mm=UNEVEN_STEPS_MM, modality="CT"),
    "uneven-tilted": lambda scan: replace(scan.turned(0.41), places_mm=UNEVEN_STEPS_MM[::-1], tilt=0.21),
}
REFUSED: dict[str, tuple[str, Callable[[Scan], Scan]]] = {
    "tilt-too-far": ("gantry-tilt", lambda scan: replace(scan, tilt=1.1)),
    "too-uneven": (
        "uneven-spacing",
        lambda scan: replace(scan, places_mm=tuple(0.9 * (i - 15) + 0.08 * i * i for i in range(18))),
    ),
    "gap": ("gap-in-stack", lambda scan: replace(scan, places_mm=scan.places_mm[:8] + scan.places_mm[10:])),
    "repeated": ("duplicate-position", lambda scan: replace(scan, places_mm=scan.places_mm + scan.places_mm[3:4])),
}


def base(plane: str, flips: tuple[int, int]) -> Scan:
    """A scan of this plane with rows and columns running towards or against the axes of the patient."""
    row, column = (
        tuple(float(sign * (i == axis)) for i in range(3)) for axis, sign in zip(PLANES[plane], flips, strict=True)
    )
    number = list(PLANES).index(plane) + FLIPS.index(flips)
    return Scan(row, column, patient_position=PATIENT_POSITIONS[number % 4])


def letters(axes: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    """Where columns and rows increase to."""
    return "".join("RLAPIS"[int(np.argmax(np.abs(d))) * 2 + (sum(d) > 0)] for d in axes)


@pytest.mark.parametrize("patient_position", PATIENT_POSITIONS)
@pytest.mark.parametrize("axes", AXES, ids=letters)
def test_every_plane_and_flip_in_every_patient_position(
    axes, patient_position: str, segment: Segment, tmp_path: Path
) -> None:
    scan = Scan(*axes, patient_position=patient_position)
    segment(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    found = read_by_arithmetic(tmp_path / "seg.dcm")
    assert len(found) > 400
    assert dice(scan.points_mm(), found) == 1.0


@pytest.mark.parametrize("axes", AXES, ids=letters)
def test_model_sees_every_plane_and_flip_in_the_orientation_it_asks_for(
    axes, segment_shifted: Segment, tmp_path: Path
) -> None:
    scan = Scan(*axes, pixel_mm=(1.1, 1.9), rows=46, columns=30)
    segment_shifted(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    steps_mm = np.array([scan.normal * 2.0, np.array(axes[1]) * 1.1, np.array(axes[0]) * 1.9])
    left_back_head = np.abs(steps_mm).sum(axis=0)
    moved = scan.points_mm() + left_back_head * SHIFT[::-1]
    assert dice(moved, read_by_arithmetic(tmp_path / "seg.dcm")) == 1.0


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("-+"[sign > 0] for sign in flips))
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_found_exactly_where_it_is(
    variant: str, plane: str, flips: tuple[int, int], segment: Segment, tmp_path: Path
) -> None:
    scan = VARIANTS[variant](base(plane, flips))
    paths = scan.write(tmp_path / "series")
    random.Random(variant).shuffle(paths)
    segment(paths, tmp_path / "seg.dcm")
    wanted = scan.points_mm()
    found = read_by_arithmetic(tmp_path / "seg.dcm")
    assert len(found) > 300
    assert dice(wanted, found) == 1.0
    assert dice(wanted, read_volume_by_highdicom(tmp_path / "seg.dcm")) == 1.0
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    assert dice(wanted, read_by_highdicom(tmp_path / "seg.dcm", headers)) == 1.0


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("-+"[sign > 0] for sign in flips))
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", TILTED)
def test_tilted_slices_are_corrected_and_the_result_is_on_them(
    variant: str, plane: str, flips: tuple[int, int], segment: Segment, tmp_path: Path
) -> None:
    scan = TILTED[variant](base(plane, flips))
    paths = scan.write(tmp_path / "series")
    remarks = segment(paths, tmp_path / "seg.dcm").remarks
    assert f"tilted by {np.degrees(np.arctan(abs(scan.tilt))):.1f} degrees" in remarks[0]
    wanted, found = scan.points_mm(), read_by_arithmetic(tmp_path / "seg.dcm")
    assert dice(wanted, found) >= 0.98
    voxel_mm = np.linalg.norm([2.0, *scan.pixel_mm])
    assert np.linalg.norm(wanted.mean(axis=0) - found.mean(axis=0)) < voxel_mm / 2
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    assert dice(found, read_by_highdicom(tmp_path / "seg.dcm", headers)) == 1.0


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("-+"[sign > 0] for sign in flips))
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", UNEVEN)
def test_unevenly_spaced_slices_are_corrected_and_the_result_is_on_them(
    variant: str, plane: str, flips: tuple[int, int], segment: Segment, tmp_path: Path
) -> None:
    scan = UNEVEN[variant](base(plane, flips))
    paths = scan.write(tmp_path / "series")
    random.Random(variant).shuffle(paths)
    result = segment(paths, tmp_path / "seg.dcm")
    assert "unevenly spaced" in result.remarks[0]
    wanted, found = scan.points_mm(), read_by_arithmetic(tmp_path / "seg.dcm")
    assert dice(wanted, found) >= 0.98
    voxel_mm = np.linalg.norm([1.5, *scan.pixel_mm])
    assert np.linalg.norm(wanted.mean(axis=0) - found.mean(axis=0)) < voxel_mm / 2
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    assert dice(found, read_by_highdicom(tmp_path / "seg.dcm", headers)) == 1.0
    assert result.findings[0].measurements[0].value == pytest.approx(volume_ml(scan, found), rel=1e-6)


def volume_ml(scan: Scan, points_mm: np.ndarray) -> float:
    """Of voxels with these centres, each of which reaches half way to the neighbouring slices."""
    places = np.sort(scan.places_mm)
    edges = np.concatenate([[2 * places[0] - places[1]], places, [2 * places[-1] - places[-2]]])
    thicknesses = (edges[2:] - edges[:-2]) / 2
    along = (points_mm - scan.positions_mm()[int(np.argmin(scan.places_mm))]) @ scan.normal + places[0]
    slices = np.abs(along[:, None] - places).argmin(axis=1)
    return float(thicknesses[slices].sum() * np.prod(scan.pixel_mm) / 1000)


@pytest.mark.parametrize("plane", PLANES)
def test_model_sees_tilted_slices_upright(plane: str, segment_shifted: Segment, tmp_path: Path) -> None:
    scan = replace(base(plane, (1, 1)), tilt=0.75)  # each slice is shifted by one pixel
    segment_shifted(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    steps_mm = np.abs([scan.normal * 2.0, np.array(scan.column_direction) * 1.5, np.array(scan.row_direction) * 1.5])
    wanted = scan.points_mm().mean(axis=0) + steps_mm.sum(axis=0) * SHIFT[::-1]
    found = read_by_arithmetic(tmp_path / "seg.dcm").mean(axis=0)
    assert np.linalg.norm(wanted - found) < 0.1


@pytest.mark.counterpart("dcmqi")
@pytest.mark.parametrize("variant", [*TILTED, *UNEVEN])
def test_dcmqi_finds_tilted_and_uneven_slices_as_far_as_its_grid_goes(
    variant: str, segment: Segment, tmp_path: Path
) -> None:
    """The grid of ITK is upright and even. dcmqi puts each slice straight above the lowest one, whatever its position
    says, and at the nearest multiple of the mean distance; it gives up where slices are shifted against their rows. But
    for that shift it finds evenly spaced slices exactly, and uneven ones within half a distance.
    """
    scan = {**TILTED, **UNEVEN}[variant](base(list(PLANES)[len(variant) % 3], FLIPS[len(variant) % 4]))
    segment(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    if scan.tilt < 0:
        assert run_dcmqi(tmp_path / "seg.dcm", tmp_path / "nrrd") == []
        return
    array, steps, origin = read_array_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "nrrd")
    distances = np.argwhere(array)[:, :1] * np.linalg.norm(steps[2])
    shift = distances * scan.tilt * np.array(scan.column_direction)
    found = np.argwhere(array)[:, ::-1] @ steps + origin + shift
    wanted = read_by_arithmetic(tmp_path / "seg.dcm")
    if variant in TILTED:
        frames = read_frames_by_arithmetic(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(without_empty_slices(array > 0), without_empty_slices(frames))
        assert dice(wanted, found) == 1.0
        return
    half_mm = np.linalg.norm(steps[2]) / 2 * np.hypot(1, scan.tilt) + 0.01
    assert cKDTree(found).query(wanted)[0].max() <= half_mm
    assert cKDTree(wanted).query(found)[0].max() <= half_mm
    assert np.linalg.norm(wanted.mean(axis=0) - found.mean(axis=0)) <= np.linalg.norm(steps.sum(axis=0)) / 2


@pytest.mark.counterpart("dcmqi")
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", [*TILTED, *UNEVEN])
def test_dcmqi_finds_each_frame_of_tilted_and_uneven_slices_in_its_place(
    variant: str, plane: str, segment: Segment, tmp_path: Path
) -> None:
    """One at a time no frame is bound to a grid. `OVERREAD_SOAK=1` takes all, else it is every fourth."""
    scan = {**TILTED, **UNEVEN}[variant](base(plane, FLIPS[len(variant) % 4]))
    segment(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    frames = write_frames_alone(tmp_path / "seg.dcm", tmp_path / "frames", 1 if os.environ.get("OVERREAD_SOAK") else 4)
    found = np.concatenate([read_by_dcmqi(path, path.with_suffix(".nrrd")) for path in frames])
    assert dice(np.concatenate([read_by_arithmetic(path) for path in frames]), found) == 1.0
    heights, wanted = np.unique(np.round(found @ scan.normal, 2)), scan.points_mm()
    on_them = np.abs((wanted @ scan.normal)[:, None] - heights).min(axis=1) < 0.1
    assert len(heights) == len(frames) > 1
    assert dice(wanted[on_them], found) >= 0.98


def without_empty_slices(mask: np.ndarray) -> np.ndarray:
    """The mask from its first slice with a voxel to its last: an empty frame may make the pixels an even length."""
    shown = np.flatnonzero(mask.any(axis=(1, 2)))
    return mask[shown[0] : shown[-1] + 1]


@pytest.mark.counterpart("dcmqi")
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dcmqi_finds_every_variant_in_its_place(variant: str, plane: str, segment: Segment, tmp_path: Path) -> None:
    scan = VARIANTS[variant](base(plane, FLIPS[len(variant) % 4]))
    segment(scan.write(tmp_path / "series"), tmp_path / "seg.dcm")
    assert dice(scan.points_mm(), read_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "nrrd")) == 1.0


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("-+"[sign > 0] for sign in flips))
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("variant", REFUSED)
def test_what_is_not_placed_exactly_is_refused(
    variant: str, plane: str, flips: tuple[int, int], segment: Segment, tmp_path: Path
) -> None:
    code, change = REFUSED[variant]
    with pytest.raises(NotAnalysed) as caught:
        segment(change(base(plane, flips)).write(tmp_path / "series"), tmp_path / "seg.dcm")
    assert caught.value.code == code


def test_every_cell_is_there() -> None:
    """What the matrix has to hold: a variant that goes missing fails here."""
    assert set(PLANES) == {"axial", "sagittal", "coronal"}
    assert len(FLIPS) == 4 and len(AXES) == 24
    assert set(PATIENT_POSITIONS) == {"HFS", "HFP", "FFS", "FFP"}
    assert set(VARIANTS) >= {
        "oblique",
        "anisotropic",
        "overlapping",
        "reversed-numbers",
        "reversed-order",
        "non-square",
    }
    assert set(TILTED) >= {"tilt", "tilt-against", "tilt-oblique"}
    assert set(UNEVEN) >= {"uneven", "uneven-steps", "uneven-tilted"}
    assert set(ENHANCED) >= {"upright", "any-order", "oblique"}
    assert {code for code, _ in REFUSED.values()} == {
        "gantry-tilt",
        "uneven-spacing",
        "gap-in-stack",
        "duplicate-position",
    }


def test_no_flip_or_exchange_of_axes_maps_the_shape_onto_itself() -> None:
    points = Scan((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)).points_mm() - CENTRE_MM
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            if order == (0, 1, 2) and signs == (1, 1, 1):
                continue
            moved = points[:, order] * signs
            assert is_inside(moved + CENTRE_MM).mean() < 0.95, (order, signs)


@pytest.mark.counterpart("dcmqi")
@pytest.mark.parametrize("variant", ENHANCED)
@pytest.mark.parametrize("flips", FLIPS[1:3], ids=lambda flips: "".join("-+"[sign > 0] for sign in flips))
@pytest.mark.parametrize("plane", PLANES)
def test_frames_of_an_enhanced_object_are_found_exactly_where_they_are(
    plane: str, flips: tuple[int, int], variant: str, segment: Segment, tmp_path: Path
) -> None:
    scan = ENHANCED[variant](base(plane, flips))
    paths = scan.write_enhanced(tmp_path)
    segment(paths, tmp_path / "seg.dcm")
    wanted = scan.points_mm()
    found = read_by_arithmetic(tmp_path / "seg.dcm")
    assert len(found) > 300
    assert dice(wanted, found) == 1.0
    assert dice(wanted, read_volume_by_highdicom(tmp_path / "seg.dcm")) == 1.0
    assert dice(wanted, read_frames_by_highdicom(tmp_path / "seg.dcm", dcmread(paths[0]))) == 1.0
    assert dice(wanted, read_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "nrrd")) == 1.0


@pytest.mark.parametrize("plane", PLANES)
def test_one_echo_of_an_enhanced_object_is_found_on_its_frames(plane: str, segment: Segment, tmp_path: Path) -> None:
    scan = base(plane, FLIPS[1])
    path = scan.write_enhanced(tmp_path, echo_times_ms=(80.0, 5.0))[0]
    result = segment([path], tmp_path / "seg.dcm")
    count = len(scan.places_mm)
    assert f"only that of EchoTime 5 was analysed ({count} of {2 * count} slices)" in result.remarks[0]
    wanted = scan.points_mm()
    assert dice(wanted, read_by_arithmetic(tmp_path / "seg.dcm")) == 1.0
    assert dice(wanted, read_frames_by_highdicom(tmp_path / "seg.dcm", dcmread(path))) == 1.0
    seg = dcmread(tmp_path / "seg.dcm")
    assert {source_frame(groups) > count for groups in seg.PerFrameFunctionalGroupsSequence} == {True}


def source_frame(groups: Dataset) -> int:
    """The frame of the source from which a frame of a segmentation was made."""
    return int(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
