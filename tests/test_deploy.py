"""What `deploy/` and its page say is what the program knows."""

import re
from pathlib import Path

import pytest
from click import Command, Context, Group

from onlooker.cli.main import cli
from onlooker.settings import FIELDS, PREFIX

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "deploy.md"
FILES = sorted((ROOT / "deploy").iterdir())
UNITS = [path for path in FILES if path.suffix == ".service"]
HOOK_SETTINGS = {"ONLOOKER_KEY", "ONLOOKER_URL"}


@pytest.mark.parametrize("path", [PAGE, *FILES], ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", path.read_text()))
    assert named - {PREFIX + name.upper() for name in FIELDS} - HOOK_SETTINGS == set()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_start_lasts_until_it_is_ready(unit: Path) -> None:
    """Else the second server of an upgrade would be stopped before the first serves."""
    assert {"Type=notify", "TimeoutStartSec=infinity"} <= set(unit.read_text().splitlines())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_every_unit_starts_a_command_that_there_is(unit: Path) -> None:
    started = re.search(r"^ExecStart=/opt/onlooker/bin/onlooker (.+)$", unit.read_text(), re.MULTILINE)
    assert started is not None
    command: Command = cli
    words = started[1].split()
    while isinstance(command, Group):
        found = command.get_command(Context(command), words.pop(0))
        assert found is not None, started[1]
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(words) <= known


def test_no_server_is_left_out_because_it_was_away() -> None:
    """Else a second one that is started again right after the first leaves nginx with none."""
    servers = re.findall(r"^    server [\d.:]+ ?(.*);$", (ROOT / "deploy" / "nginx.conf").read_text(), re.MULTILINE)
    assert servers == ["max_fails=0"] * 2


def test_the_page_names_files_that_there_are() -> None:
    named = set(re.findall(r"deploy/([\w.@-]+\w)", PAGE.read_text()))
    assert named == {path.name for path in FILES}
