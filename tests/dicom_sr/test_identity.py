"""UIDs that follow from what they name."""

from dataclasses import replace

from pydicom.uid import UID

from dicom_sr.identity import derived_uid, device_uid, tracking_uid, uid_for


def test_derived_uid_never_changes():
    assert derived_uid("a", "b") == derived_uid("a", "b")
    assert derived_uid("a", "b") == "2.25.185689071150905032574697856889447594835"


def test_derived_uid_is_valid_and_keeps_parts_apart():
    assert UID(derived_uid("a")).is_valid
    assert len({derived_uid("ab", "c"), derived_uid("a", "bc"), derived_uid("abc"), derived_uid("c", "ab")}) == 4


def test_uids_differ_by_role_revision_input_and_model(result):
    others = [
        replace(result, revision=2),
        replace(result, input_digest="cd" * 32),
        replace(result, algorithm=replace(result.algorithm, digest="f" * 64)),
        replace(result, series_instance_uid="1.2.5"),
    ]
    uids = {uid_for(each, "report") for each in (result, *others)} | {uid_for(result, "segmentation")}
    assert len(uids) == 6


def test_remarks_and_time_do_not_change_uids(result):
    again = replace(result, remarks=(), created_at=result.created_at.replace(year=2030))
    assert tracking_uid(again, "Brain 1") == tracking_uid(result, "Brain 1")


def test_device_is_a_version_of_an_algorithm(result):
    assert device_uid(result.algorithm) == device_uid(replace(result.algorithm, name="Other name"))
    assert device_uid(result.algorithm) != device_uid(replace(result.algorithm, version="2"))
