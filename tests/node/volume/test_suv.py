"""Standardised uptake values by body weight: as computed by hand, or the attribute that lacks."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.errors import NotAnalysed
from node.volume import load_volume
from tests.phantoms import make_series

SHAPE = (4, 12, 10)
VOXELS = np.random.default_rng(2).integers(0, 30000, SHAPE).astype(np.int16)
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 70.0, 3.7e8, 6586.2
PET = "1.2.840.10008.5.1.4.1.1.128"


def write_pet(folder: Path, injection: dict[str, object] | None = None, **attributes: object) -> list[Path]:
    """A PET series that starts an hour after the injection; None removes an attribute."""
    item = Dataset()
    given: dict[str, object] = {
        "RadionuclideTotalDose": DOSE_BQ,
        "RadionuclideHalfLife": HALF_LIFE_S,
        "RadiopharmaceuticalStartTime": "091112.000000",
    }
    for keyword, value in (given | (injection or {})).items():
        if value is not None:
            setattr(item, keyword, value)
    settings: dict[str, object] = {
        "SOPClassUID": PET,
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": WEIGHT_KG,
        "RadiopharmaceuticalInformationSequence": [item],
        "RescaleIntercept": 0,
    }
    settings |= attributes
    paths = []
    for number, image in enumerate(make_series(shape=SHAPE, voxels=VOXELS)):
        image.RescaleSlope = 0.5 + number
        image.AcquisitionTime = f"10{11 + 3 * number:02d}12"  # beds, one after another
        for keyword, value in settings.items():
            if value is None:
                if keyword in image:
                    delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        paths.append(folder / f"{number}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


ACTIVITY = VOXELS * (0.5 + np.arange(4))[:, None, None]


def test_decay_corrected_to_the_start_of_the_scan(tmp_path: Path) -> None:
    volume = load_volume(write_pet(tmp_path))
    remaining = DOSE_BQ * 0.5 ** (3600 / HALF_LIFE_S)
    np.testing.assert_allclose(volume.voxels, ACTIVITY * WEIGHT_KG * 1000 / remaining, rtol=1e-6)
    assert volume.modality == "PT" and volume.voxels.dtype == np.float32
    assert "decay corrected to the start of the scan" in volume.corrections[0]


def test_decay_corrected_to_the_injection(tmp_path: Path) -> None:
    volume = load_volume(write_pet(tmp_path, {"RadiopharmaceuticalStartTime": None}, DecayCorrection="ADMIN"))
    np.testing.assert_allclose(volume.voxels, ACTIVITY * WEIGHT_KG * 1000 / DOSE_BQ, rtol=1e-6)


def test_date_and_time_of_injection_on_the_day_before(tmp_path: Path) -> None:
    given = {"RadiopharmaceuticalStartDateTime": "20240304221112.500000", "RadiopharmaceuticalStartTime": "221112"}
    volume = load_volume(write_pet(tmp_path, given))
    remaining = DOSE_BQ * 0.5 ** ((12 * 3600 - 0.5) / HALF_LIFE_S)
    np.testing.assert_allclose(volume.voxels, ACTIVITY * WEIGHT_KG * 1000 / remaining, rtol=1e-6)


def test_a_series_time_of_a_later_reconstruction_is_not_the_start_of_the_scan(tmp_path: Path) -> None:
    usual = load_volume(write_pet(tmp_path))
    (tmp_path / "b").mkdir()
    later = load_volume(write_pet(tmp_path / "b", SeriesTime="154500"))
    np.testing.assert_array_equal(usual.voxels, later.voxels)


def test_uptake_values_written_by_the_scanner_stay(tmp_path: Path) -> None:
    volume = load_volume(write_pet(tmp_path, Units="GML", SUVType="BW", PatientWeight=None))
    np.testing.assert_allclose(volume.voxels, ACTIVITY, rtol=1e-6)


def philips(folder: Path, **factors: str) -> list[Path]:
    from pydicom import dcmread

    paths = write_pet(folder, Units="CNTS")
    for path in paths:
        image = dcmread(path)
        block = image.private_block(0x7053, "Philips PET Private Group", create=True)
        for name, value in factors.items():
            block.add_new({"suv": 0x00, "activity": 0x09}[name], "DS", value)
        image.save_as(path)
    return paths


def test_counts_with_the_factor_of_the_scanner(tmp_path: Path) -> None:
    volume = load_volume(philips(tmp_path, suv="0.000618"))
    np.testing.assert_allclose(volume.voxels, ACTIVITY * 0.000618, rtol=1e-6)


def test_counts_with_the_factor_to_activity(tmp_path: Path) -> None:
    volume = load_volume(philips(tmp_path, suv="0", activity="2.5"))
    remaining = DOSE_BQ * 0.5 ** (3600 / HALF_LIFE_S)
    np.testing.assert_allclose(volume.voxels, ACTIVITY * 2.5 * WEIGHT_KG * 1000 / remaining, rtol=1e-6)


@pytest.mark.parametrize(
    ("injection", "attributes", "words"),
    [
        ({}, {"PatientWeight": None}, "PatientWeight is missing"),
        ({}, {"PatientWeight": 0}, "PatientWeight is missing or not above 0"),
        ({}, {"RadiopharmaceuticalInformationSequence": None}, "no Radiopharmaceutical Information"),
        ({"RadionuclideTotalDose": None}, {}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideTotalDose": 370}, {}, "no injected dose"),
        ({"RadionuclideHalfLife": None}, {}, "RadionuclideHalfLife is missing"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "no Radiopharmaceutical Start"),
        ({"RadiopharmaceuticalStartTime": "113000"}, {}, "begins -79 minutes after the injection"),
        ({}, {"DecayCorrection": "NONE"}, "found Decay Correction NONE"),
        ({}, {"DecayCorrection": None}, "found Decay Correction none"),
        ({}, {"Units": "CNTS"}, "found Units CNTS without the scanner's factor"),
        ({}, {"Units": "PROPCPS"}, "found Units PROPCPS"),
        ({}, {"Units": None}, "found Units none"),
        ({}, {"Units": "GML", "SUVType": "LBM"}, "found SUV Type LBM"),
        ({}, {"AcquisitionTime": None}, "without Acquisition Date and Time"),
    ],
)
def test_what_lacks_is_named(tmp_path: Path, injection, attributes, words: str) -> None:
    with pytest.raises(NotAnalysed, match="no standardised uptake value") as caught:
        load_volume(write_pet(tmp_path, injection, **attributes))
    assert caught.value.code == "no-uptake-value"
    assert words in str(caught.value)
