import re
from pathlib import Path

import pytest

from node.settings import SettingsError, load_settings

ROUTE = '[[routes]]\nname = "a"\nmodels = ["m"]\n'
DESTINATION = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "h"\nport = 104\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""))
    assert settings.dimse.port == 11112
    assert settings.node.data_dir == tmp_path / "data"
    assert settings.database_url == f"sqlite:///{tmp_path / 'data' / 'overread.sqlite'}"


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERREAD_DIMSE__PORT", "4242")
    monkeypatch.setenv("OVERREAD_ROUTES", '[{"name": "env", "models": ["m"]}]')
    settings = load_settings(write(tmp_path, "[dimse]\nport = 104\nhost = '127.0.0.1'\n"))
    assert (settings.dimse.port, settings.dimse.host) == (4242, "127.0.0.1")
    assert [route.name for route in settings.routes] == ["env"]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (
            "[dimse]\nprot = 104\n",
            "2: dimse.prot",
            "found an unknown key (did you mean port?), expected one of: host, ",
        ),
        ("[dimse]\nport = 'x'\n", "2: dimse.port", 'found "x", expected a whole number'),
        ("[dimse]\nport = 70000\n", "2: dimse.port", "found 70000, expected less than or equal to 65535"),
        ("[node]\nae_title = 'A_TITLE_FAR_TOO_LONG'\n", "2: node.ae_title", "expected at most 16 characters"),
        ("[node]\nae_title = 'A\\\\B'\n", "2: node.ae_title", "expected text matching"),
        ("[work]\ndevice = 'tpu'\n", "2: work.device", "expected 'prefer-gpu', 'require-gpu' or 'cpu'"),
        ('[[routes]]\nname = "a"\n', "1: routes.a.models", "found nothing, expected a value"),
        ("[[routes]]\nmodels = []\n", "1: routes[0].name", "found nothing"),
        (ROUTE + 'match = { modalty = ["MR"] }\n', "4: routes.a.match.modalty", "did you mean modality?"),
        (ROUTE + 'match = { modality = "MR" }\n', "4: routes.a.match.modality", 'found "MR", expected a list: ["MR"]'),
        (ROUTE + 'match = { series_description = "(" }\n', "4: routes.a.match", "not a regular expression"),
        (ROUTE + 'destinations = ["nowhere"]\n' + DESTINATION, "4: routes.a.destinations", "known are pacs"),
        (ROUTE.replace('"m"', ""), "3: routes.a.models", "found [], expected at least 1 item"),
        (ROUTE + ROUTE, "4: routes.a", "another one is called 'a'"),
        (
            DESTINATION + 'kind = "dicom"\n',
            "6: destinations.pacs.kind",
            'found "dicom", expected one of dimse, dicomweb',
        ),
        (DESTINATION + 'hours = "18-7"\n', "6: destinations.pacs.hours", 'such as "18:00-07:00"'),
        ("[work]\nlease_seconds = 60\ndeadline_seconds = 30\n", "2: work.lease_seconds", "make it shorter"),
        ("[settle]\nquiet_seconds = 1\n", "1: settle.released_quiet_seconds", "is longer than settle.quiet_seconds"),
        ("[dimse]\nport = 1\ntls_key = 'k'\n", "1: dimse.tls_certificate", "give both or none"),
        ("[process]\nenabled = true\n", "2: process.enabled", "set web.enabled = true"),
    ],
)
def test_wrong_file_is_refused_with_file_line_key_and_fix(tmp_path: Path, text: str, key: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as refusal:
        load_settings(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}:{key}: ")
    assert words in message


def test_every_wrong_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(write(tmp_path, "[dimse]\nport = 'x'\n[work]\nprocesses = 0\n"))
    assert [line.split(": ")[1] for line in str(refusal.value).splitlines()] == ["dimse.port", "work.processes"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = = 3\n", "Invalid value at column 8; text stands in quotes"),
        ("device = cpu\n", "text stands in quotes"),
        ('data_dir = "C:\\data"\n', "paths have / or stand in single quotes"),
        ("quiet_seconds = 0,5\n", "numbers have a point, no comma"),
        ("[dimse]\n", "this table stands twice"),
        ("host = 'a'\nhost = 'b'\n", "this key stands twice"),
        ("host = 'a\nport = '\n", "a text ends with the quote"),
    ],
)
def test_what_is_not_toml_is_refused_with_the_line_and_what_is_usually_meant(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path, "[dimse]\n" + text)
    with pytest.raises(SettingsError) as refusal:
        load_settings(path)
    assert re.match(rf"{re.escape(str(path))}:[23]: is not TOML: ", str(refusal.value))
    assert words in str(refusal.value)


def test_a_file_that_an_editor_of_windows_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[dimse]\r\nport = 104\r\n", encoding="utf-8-sig")
    assert load_settings(path).dimse.port == 104
    path.write_text("[dimse]\nport = 104\n", encoding="utf-16")
    with pytest.raises(SettingsError, match=r"is not UTF-8 \(byte 1\): save it as UTF-8"):
        load_settings(path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OVERREAD_DIMSE__PORT", "abc", 'variable OVERREAD_DIMSE__PORT: dimse.port: found "abc", expected a whole'),
        (
            "OVERREAD_DIMSE__PROT",
            "104",
            "variable OVERREAD_DIMSE__PROT: dimse.prot: found an unknown key (did you mean p",
        ),
        ("OVERREAD_DIMSEE__PORT", "104", "variable OVERREAD_DIMSEE__PORT: unknown table, expected OVERREAD_TABLE__KEY"),
        ("OVERREAD_ROUTES", "[{}]", "variable OVERREAD_ROUTES: routes[0].name: found nothing"),
    ],
)
def test_wrong_variables_are_refused_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=re.escape(words)):
        load_settings(write(tmp_path, "[dimse]\nport = 1\n"))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "absent.toml")


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""))
    with pytest.raises(ValueError, match="frozen"):
        settings.dimse.port = 1  # type: ignore[misc]
