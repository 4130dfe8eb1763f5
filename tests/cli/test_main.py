"""The command line as a whole: quick to start, helpful, and never a traceback."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import reference
from cli_runner import EXECUTABLE, Cli, make_unwritable, one_line
from onlooker import __version__
from onlooker.cli.main import COMMANDS

HEAVY = ("sqlalchemy", "uvicorn", "mcp", "pydantic", "msgspec", "rich", "httpx", "alembic")

NEEDED_LATER = (
    "rich",
    "structlog",
    "pydantic",
    "alembic",
    "mcp",
    "httpx",
    "numpy",
    "sqlalchemy.dialects.postgresql",
)
"""What a server on SQLite may not import before something asks for it: each costs every start its time and memory."""


def test_help_imports_nothing_heavy() -> None:
    watch = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([each for each in {HEAVY!r} if each in sys.modules], file=sys.stderr))\n"
        "sys.argv = ['onlooker', '--help']\n"
        "from onlooker.cli.main import main\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
    assert all(name in ran.stdout for name in COMMANDS)


def test_a_server_on_sqlite_imports_what_it_needs_and_no_more(tmp_path: Path) -> None:
    serve = (
        "import asyncio, sys\n"
        "import onlooker.cli.serving\n"
        "from onlooker.app import open_app\n"
        "from onlooker.settings import load_settings\n"
        "async def main():\n"
        "    async with open_app(load_settings()):\n"
        f"        print([each for each in {NEEDED_LATER!r} if each in sys.modules])\n"
        "asyncio.run(main())\n"
    )
    loaded = [
        subprocess.run(
            [sys.executable, "-c", serve],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "ONLOOKER_HOME": str(tmp_path)},
        ).stdout
        for _ in range(2)
    ]
    # The first start makes the tables, and needs more.
    assert loaded[1].strip() == "[]"


def test_the_module_is_the_same_command() -> None:
    asked = [[str(EXECUTABLE), "--version"], [sys.executable, "-m", "onlooker", "--version"]]
    said = {subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in asked}
    assert said == {f"onlooker {__version__}\n"}


COMMAND_PAGES = reference.commands()


@pytest.mark.parametrize("path", COMMAND_PAGES)
def test_every_command_has_help_with_an_example(path: str) -> None:
    assert f"Example: {path.split(maxsplit=1)[0]} " in COMMAND_PAGES[path]


def test_the_overview_says_of_each_command_what_the_command_says_of_itself() -> None:
    for name, (_, line) in COMMANDS.items():
        assert line.rstrip(".") in " ".join(COMMAND_PAGES[f"onlooker {name}"].split()), name


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_the_documentation_is_what_the_code_says(path: Path) -> None:
    _, found, _ = reference.between_marks(path.read_text(encoding="utf-8"))
    assert found.strip() == reference.pages()[path].strip(), "run: python tests/reference.py"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("--nonsense",),
        ("serve", "--port", "65536"),
        ("serve", "--port", "x"),
        ("keys", "create", "--scope", "read,fly"),
        ("keys", "create", "--scope", ""),
        ("keys", "revoke"),
        ("search",),
        ("search", "--kind", "poem", "x"),
        ("search", "--since", "yesterday", "x"),
        ("jobs", "list", "--status", "lost"),
        ("jobs", "list", "--limit", "0"),
        ("import", "transcript"),
        ("import", "transcript", "no-such-file"),
        ("projects", "create", ""),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli.run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert one_line(ended.err).startswith("onlooker: ")


@pytest.mark.parametrize(
    "name, value",
    [
        ("ONLOOKER_PORT", "many"),
        ("ONLOOKER_PORT", "-1"),
        ("ONLOOKER_DATABASE_URL", "mysql://localhost/x"),
        ("ONLOOKER_PROVIDER", "oracle"),
        ("ONLOOKER_PROVIDER", "scripted"),
        ("ONLOOKER_QUEUE_ENGINE", "kafka"),
        ("ONLOOKER_LOG_LEVEL", "loud"),
        ("ONLOOKER_DATABASE_URL", "sqlite:////proc/no/such/folder/x.db"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_exit_code_2(cli: Cli, name: str, value: str) -> None:
    ended = cli.run("serve", env={name: value})
    assert (ended.code, ended.out) == (2, "")
    assert "x.db" in one_line(ended.err) or name in one_line(ended.err)


@pytest.mark.parametrize("command", [("projects", "list"), ("server", "start"), ("worker", "start"), ("search", "x")])
def test_every_command_says_what_is_wrong_with_a_setting(cli: Cli, command: tuple[str, ...]) -> None:
    ended = cli.run(*command, env={"ONLOOKER_PROVIDER": "oracle"})
    assert (ended.code, ended.out) == (2, "")
    assert "ONLOOKER_PROVIDER=oracle" in one_line(ended.err)


def test_every_wrong_setting_is_named_at_once(cli: Cli) -> None:
    ended = cli.run("serve", env={"ONLOOKER_PORT": "x", "ONLOOKER_LOG_LEVEL": "y"})
    assert ended.code == 2
    assert "ONLOOKER_PORT" in one_line(ended.err)
    assert "ONLOOKER_LOG_LEVEL" in ended.err


def test_a_settings_file_that_cannot_be_read_is_one_line(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "settings.toml").write_text("port = = 3")
    ended = cli.run("projects", "list")
    assert ended.code == 2
    assert "settings.toml" in one_line(ended.err)


def test_the_settings_file_counts_and_the_environment_wins(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "settings.toml").write_text('provider = "oracle"\n')
    assert cli.run("projects", "list").code == 2
    assert cli.run("projects", "list", env={"ONLOOKER_PROVIDER": "rules"}).code == 0


NEED_A_HOME = [("serve",), ("projects", "list"), ("server", "start"), ("worker", "start")]


@pytest.mark.parametrize("command", NEED_A_HOME, ids=" ".join)
def test_a_home_that_cannot_be_made_is_one_line_and_exit_code_2(tmp_path: Path, command: tuple[str, ...]) -> None:
    make_unwritable(tmp_path / "folder")
    home = tmp_path / "folder" / "home"
    ended = Cli(home).run(*command, bound_by_modes=True)
    assert (ended.code, ended.out) == (2, "")
    assert str(home) in one_line(ended.err)


@pytest.mark.parametrize("command", NEED_A_HOME, ids=" ".join)
def test_a_home_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path: Path, command: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    make_unwritable(home)
    ended = Cli(home).run(*command, bound_by_modes=True)
    assert (ended.code, ended.out) == (2, "")
    assert str(home) in one_line(ended.err)


def test_a_database_that_is_damaged_is_one_line(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "onlooker.db").write_bytes(b"this is no database " * 1000)
    ended = cli.run("projects", "list", env={"ONLOOKER_STARTUP_WAIT_S": "0"})
    assert ended.code == 2
    assert "onlooker.db" in one_line(ended.err)


def test_a_database_that_needs_newer_code_is_one_line(cli: Cli) -> None:
    cli.succeed("projects", "list")
    with sqlite3.connect(cli.home / "onlooker.db") as database:
        database.execute("UPDATE schema_info SET version = '9999', oldest_code = '999.0.0'")
    database.close()
    ended = cli.run("projects", "list")
    assert ended.code == 2
    assert "999.0.0" in one_line(ended.err)


def test_a_postgres_that_is_away_is_one_line(cli: Cli) -> None:
    env = {"ONLOOKER_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x", "ONLOOKER_STARTUP_WAIT_S": "0"}
    ended = cli.run("projects", "list", env=env)
    assert ended.code == 2
    assert "127.0.0.1:1" in one_line(ended.err)
    assert "secret" not in ended.err


def test_a_reader_that_has_enough_is_no_failure_to_tell_of(cli: Cli) -> None:
    cli.succeed("projects", "create", "one")
    process = cli.popen("projects", "list", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_debug_shows_where_a_failure_was_raised(cli: Cli) -> None:
    ended = cli.run("--debug", "serve", env={"ONLOOKER_PORT": "x"})
    assert "Traceback" in ended.err
    assert ended.code != 0
