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
        ("[dimse]\nprot = 104\n", "dimse.prot", "unknown key"),
        ("[dimse]\nport = 'x'\n", "dimse.port", "integer"),
        ("[dimse]\nport = 70000\n", "dimse.port", "less than or equal to 65535"),
        ("[node]\nae_title = 'A_TITLE_FAR_TOO_LONG'\n", "node.ae_title", "16"),
        ("[node]\nae_title = 'A\\\\B'\n", "node.ae_title", "pattern"),
        ("[work]\ndevice = 'tpu'\n", "work.device", "prefer-gpu"),
        ('[[routes]]\nname = "a"\n', "routes.0.models", "is missing"),
        (
            '[[routes]]\nname = "a"\nmodels = ["m"]\nmatch = { modalty = ["MR"] }\n',
            "routes.0.match.modalty",
            "modality",
        ),
        (
            '[[routes]]\nname = "a"\nmodels = ["m"]\nmatch = { series_description = "(" }\n',
            "routes.0.match",
            "regular",
        ),
        (ROUTE + 'destinations = ["nowhere"]\n' + DESTINATION, "(whole file)", "known are pacs"),
        (ROUTE + ROUTE, "(whole file)", "two routes are called 'a'"),
        ("[work]\nlease_seconds = 60\ndeadline_seconds = 30\n", "(whole file)", "make it shorter"),
        ("[settle]\nquiet_seconds = 1\n", "(whole file)", "released_quiet_seconds"),
    ],
)
def test_wrong_file_is_refused_with_file_key_and_fix(tmp_path: Path, text: str, key: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as refusal:
        load_settings(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: {key}: ")
    assert words in message


def test_what_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 2"):
        load_settings(write(tmp_path, "[dimse]\nport = = 3\n"))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "absent.toml")


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""))
    with pytest.raises(ValueError, match="frozen"):
        settings.dimse.port = 1  # type: ignore[misc]
