"""Measurements with what is known about them."""

from dataclasses import replace

import pytest
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard

from dicom_sr import codes
from dicom_sr.archive import load_result, save_result
from dicom_sr.conformance import check
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Measurement, NormalRange, Uncertainty
from dicom_sr.measurement_items import measurement_item
from dicom_sr.render import render
from tests.dicom_sr.cases import lung_mask
from tests.dicom_sr.counterparts import assert_clean, complaints, run
from tests.dicom_sr.test_content_items import read

RANGE = NormalRange(1200.0, 3100.0, "women of 40 to 60 years", "Invented reference, 2024")
FULL = Measurement(
    codes.VOLUME,
    950.5,
    codes.MILLILITER,
    derivation=codes.concept("R-00317", "SRT", "Mean"),
    method=codes.concept("126410", "DCM", "SUV body weight calculation method"),
    normality=standard.SCT.AbnormallyLow,
    normal_range=RANGE,
    uncertainty=Uncertainty(12.0, 8.5),
)


def number(name, value):
    return sr.NumContentItem(name, value, codes.MILLILITER, relationship_type="HAS PROPERTIES")


def test_it_equals_that_of_highdicom():
    limits = [number(standard.SCT.NormalRangeLowerLimit, 1200.0), number(standard.SCT.NormalRangeUpperLimit, 3100.0)]
    theirs = sr.Measurement(
        FULL.concept,
        FULL.value,
        FULL.unit,
        derivation=FULL.derivation,
        method=FULL.method,
        properties=sr.MeasurementProperties(
            normality=FULL.normality,
            normal_range_properties=sr.NormalRangeProperties(limits, RANGE.description, RANGE.authority),
            upper_measurement_uncertainty=12.0,
            lower_measurement_uncertainty=8.5,
        ),
    )
    for item in theirs[0].ContentSequence[-2:]:  # which highdicom gives no unit
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [sr.CodedConcept.from_code(codes.MILLILITER)]
    assert read(measurement_item(FULL)) == [Dataset(theirs[0])]


@pytest.mark.parametrize(
    "wrong", [{"normal_range": NormalRange(description="of nobody")}, {"uncertainty": Uncertainty(-1.0, 0.0)}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidResult):
        measurement_item(replace(FULL, **wrong))


@pytest.mark.counterpart("dicom3tools", "dcmtk", "dcmqi")
def test_kept_read_back_and_written_without_a_complaint(tmp_path):
    case = lung_mask()
    finding = case.result.findings[0]
    volume = finding.measurements[0].value
    measured = replace(FULL, value=volume, derivation=None, method=None, normal_range=NormalRange(upper=2.0 * volume))
    save_result(replace(case.result, findings=(replace(finding, measurements=(measured,)),)), tmp_path)
    result = load_result(tmp_path)
    assert result.findings[0].measurements == (measured,)
    objects = [each.dataset for each in render(result, case.sources)]
    assert check(objects, case.sources) == []
    path = assert_clean(objects[-1], tmp_path)
    assert complaints(run("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "x.json")) == []
