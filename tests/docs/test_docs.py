"""What the documents say is compared with the code."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python
from typer.core import TyperGroup

from node.cli import COMMANDS, build_app
from node.jobs.state import TRANSITIONS
from node.settings import Destination, Match, Route, Settings, load_settings
from node.settings_reference import reference

ROOT = Path(__file__).parent.parent.parent
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
COMMAND_LINE = typer.main.get_command(build_app([]))


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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", (ROOT / page).read_text()):
        linked = (ROOT / page).parent.joinpath(target) if target else ROOT / page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in known, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_the_configuration_that_pages_name_exist(page: str) -> None:
    """`section.key` in the text, and every block of TOML that is a configuration."""
    text = (ROOT / page).read_text()
    for name, key in re.findall(r"`(\w+)\.(\w+)(?: = [^`]+)?`", text):
        section = Settings.model_fields[name].annotation if name in Settings.model_fields else None
        if isinstance(section, type) and issubclass(section, BaseModel) and not (ROOT / name / key).exists():
            assert key in section.model_fields or (ROOT / name / f"{key}.py").exists(), f"{name}.{key}"
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        tree = tomllib.loads(block)
        if set(tree) <= set(Settings.model_fields):
            try:
                Settings(**tree)
            except ValidationError as error:  # parts of a configuration lack what stands elsewhere, or shorten values
                wrong = [each for each in error.errors() if each["type"] in ("extra_forbidden", "literal_error")]
                assert not wrong, wrong


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_pages_name_exist_with_their_options(page: str) -> None:
    text = re.sub(r"\s+#.*|\s+&&.*", "", (ROOT / page).read_text())
    for said in re.findall(r"(?:`|^ {4}|^)(?:\.venv/bin/)?overread ([a-z-]+(?: [^`\n]+)?)", text, re.MULTILINE):
        words, command = shlex.split(said), COMMAND_LINE
        while words and isinstance(command, TyperGroup):
            assert words[0].rstrip(",") in command.commands, said
            command = command.commands[words.pop(0).rstrip(",")]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, said


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
