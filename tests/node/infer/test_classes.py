"""What scores of classes, grades and boxes say, without a network: calls as a stage makes them."""

import numpy as np
import pytest

from dicom_sr.findings import Presence
from node.infer.classification import classify, grade
from node.infer.detection import detect
from node.infer.output_sections import Classification, Detection, Grading
from node.infer.parts import Call
from node.infer.subject import Subject
from node.volume.volume import Grid

THING = {"value": "T", "scheme": "99T", "meaning": "Thing"}
GRID = Grid((4, 20, 20), np.eye(4))


def calls(**tensors: list[list[object]]) -> list[Call]:
    """One call for each slice of a volume; tensors by name, an entry for each slice."""
    images = tuple(f"1.2.{number}" for number in range(GRID.shape[0]))
    subject = Subject("image", GRID, images, "1.2.99", (1.0, 1.0, 1.0), np.zeros(GRID.shape))
    count = len(next(iter(tensors.values())))
    return [
        Call(subject, GRID, index, {name: np.array([values[index]], float) for name, values in tensors.items()})
        for index in range(count)
    ]


def test_class_whose_name_holds_a_comma_opens_its_gate() -> None:
    section = Classification(task="classification", classes=({"name": "Mass, left", "channel": 0, "finding": THING},))
    assert classify(section, calls(probability=[[0.9]]), "none", "m").present == {"Mass, left"}


def test_grade_of_an_image_names_the_slice_that_shows_it_best() -> None:
    grades = tuple({"name": name, "channel": place, "value": THING} for place, name in enumerate(("none", "some")))
    section = Grading(
        task="grading", level="image", combine="maximum", name="How much", finding=THING, concept=THING, grades=grades
    )
    (finding,) = grade(section, calls(probability=[[0.6, 0.1], [0.5, 0.2], [0.1, 0.9]]), "none", "m").findings
    assert finding.images == ("1.2.2",)


def test_score_of_what_is_absent_is_none_of_what_was_dropped_outside() -> None:
    section = Detection(task="detection", classes=({"name": "Thing", "channel": 0, "finding": THING},))
    keep = np.zeros(GRID.shape, bool)
    keep[:, :10] = True
    boxes, scores = [[[2, 2, 6, 6], [2, 14, 6, 18]]], [[[0.2], [0.9]]]
    (finding,) = detect(section, calls(boxes=boxes, scores=scores), "none", "m", keep).findings
    assert finding.presence is Presence.ABSENT and finding.likelihood is not None
    assert finding.likelihood.value == pytest.approx(0.2)
