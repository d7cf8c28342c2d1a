"""What the documents say is compared with the code."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from node.cli import COMMANDS
from node.jobs.state import TRANSITIONS
from node.settings import Destination, Match, Route, Settings, load_settings
from node.settings_reference import reference

ROOT = Path(__file__).parent.parent.parent


def test_settings_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == reference(), "write it anew: python -m node.settings_reference > docs/settings.md"


def test_shipped_configuration_loads_and_shows_every_key() -> None:
    text = (ROOT / "config" / "node.toml").read_text()
    load_settings(ROOT / "config" / "node.toml")
    tree = tomllib.loads(text)
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            assert set(tree[name]) == set(section.model_fields), f"[{name}]"


def test_shipped_configuration_shows_the_defaults() -> None:
    tree = tomllib.loads((ROOT / "config" / "node.toml").read_text())
    tree["node"].pop("data_dir")  # the one value that differs, as its comment says
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, value in tree[name].items():
                default = section.model_fields[key].default
                assert value == to_jsonable_python(default), f"{name}.{key}"


@pytest.mark.parametrize("section", [Route, Match, Destination])
def test_every_key_of_a_list_of_tables_has_a_sentence(section: type[BaseModel]) -> None:
    for key, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{key}"
        assert field.description.endswith("."), key


def test_architecture_page_has_the_state_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\(new\)|[A-Z]+) \| ([A-Z_]+) \| ([A-Z]+) \|$", page, re.MULTILINE)
    assert set(rows) == {(state or "(new)", event, to) for (state, event), to in TRANSITIONS.items()}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_readme_names_every_command() -> None:
    page = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert re.search(rf"`[^`]*\b{command}\b", page), command


def test_dependencies_page_names_every_dependency() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        name = re.split(r"[\[<>=; ]", requirement)[0]
        assert name in page, name
