"""Names, colours and codes of labels from the files that other tools write."""

import json
from pathlib import Path

import pytest

from node.errors import Permanent
from node.infer.label_files import NamedLabel, read_labels
from node.infer.proposals import propose

LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["Background", "Liver", "Spleen"]', [("Liver", 1, None), ("Spleen", 2, None)]),
        ('{"0": "BG", "10": "Spleen", "2": "Liver"}', [("Liver", 2, None), ("Spleen", 10, None)]),
        ('{"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}', [("liver", 1, None)]),
        (
            '{"R": [0, 255], "G": [0, 128], "B": [0, 1], "labels": ["background", "brain mask"]}',
            [("brain mask", 1, (255, 128, 1))],
        ),
        ('[{"id": 3, "name": "Liver", "color": "#0a0B0c"}]', [("Liver", 3, (10, 11, 12))]),
        ("background\nliver\n\nspleen\n", [("liver", 1, None), ("spleen", 2, None)]),
        ("# made by hand\n0 Unknown 0 0 0 0\n3 Left-Cortex 205 62 78 0\n", [("Left-Cortex", 3, (205, 62, 78))]),
        (
            '0 0 0 0 0 0 0 "Clear Label"\n2 255 0 9 1 1 1 "left lung"\n',
            [("left lung", 2, (255, 0, 9))],
        ),
        ("channel,name,r,g,b\n4,Liver,1,2,3\n5,Spleen,,,\n", [("Liver", 4, (1, 2, 3)), ("Spleen", 5, None)]),
    ],
    ids=["names", "by number", "nnU-Net", "NiiVue", "objects", "lines", "FreeSurfer", "ITK-SNAP", "CSV"],
)
def test_what_tools_write(tmp_path: Path, text: str, expected) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    assert read_labels(path) == tuple(NamedLabel(name, (channel,), rgb) for name, channel, rgb in expected)


def test_codes_that_a_file_says(tmp_path: Path) -> None:
    left = {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
    as_objects, as_table = tmp_path / "a.json", tmp_path / "b.tsv"
    as_objects.write_text(json.dumps({"channels": [None, {"name": "L", "code": LIVER, "laterality": left}][1:]}))
    as_table.write_text("index\tname\tcode\tmeaning\n0\tL\t10200004\tLiver\n")
    (one,) = read_labels(as_objects)
    assert one.type == LIVER and one.laterality == left
    (other,) = read_labels(as_table)
    assert other.type == LIVER and other.channels == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no label"),
        ('["background"]', "found no label"),
        ('{"labels": {"whole tumour": [1, 2]}}', "'whole tumour' is a region of several values"),
        ('["a", "a"]', "found the name 'a' twice"),
        ('{"a": 1, "b": 1}', "found number 1 for 'a' and 'b'"),
        ("[", "expected JSON"),
        ("name,rgb\nliver,red\n", "colour 'red'"),
        ("code,colour\n1,2\n", "without name"),
        ("1 liver 300 0 0\n", "0 to 255 each"),
    ],
)
def test_files_that_say_too_little(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(Permanent, match="labels: found") as caught:
        read_labels(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "side", "rest"),
    [
        ("liver", "10200004", None, "liver"),
        ("kidney_right", "64033007", "Right", "kidney"),
        ("Lung-Upper-Lobe-Left", "45653009", "Left", "Lung-Upper-Lobe"),
        ("LeftVentricle", "87878005", None, "LeftVentricle"),
        ("Left-Thalamus-Proper*", "42695009", "Left", "Thalamus-Proper*"),
        ("ctx-rh-insula", "36169008", "Right", "ctx-insula"),
        ("ctx-rh-cuneus", None, "Right", "ctx-cuneus"),
        ("White matter T2 hyperintensity", None, None, "White matter T2 hyperintensity"),
        ("tumour", None, None, "tumour"),
    ],
)
def test_codes_are_proposed_for_the_same_words_only(name: str, value: str | None, side: str | None, rest: str) -> None:
    found = propose(name)
    assert (found.type["value"] if found.type else None) == value
    assert (found.laterality["meaning"] if found.laterality else None) == side
    assert found.rest == rest
