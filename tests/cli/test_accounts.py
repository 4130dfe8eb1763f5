"""Keys and projects from the command line."""

import stat
from pathlib import Path

import pytest

from cli_runner import Cli, one_line


def test_first_use_makes_team_project_and_key(cli: Cli) -> None:
    [project] = cli.run("projects", "list", "--json").json()["projects"]
    [key] = cli.run("keys", "list", "--json").json()["keys"]
    assert key["teamId"] == project["teamId"]
    assert key["scopes"] == ["admin"]
    assert stat.S_IMODE((cli.home / "key").stat().st_mode) == 0o600
    assert (cli.home / "key").read_text().startswith("onl_")


def test_a_project_is_made_once(cli: Cli) -> None:
    made = cli.run("projects", "create", "website", "--json").json()
    assert set(made) == {"id", "name", "teamId"}
    assert made["name"] == "website"
    assert cli.run("projects", "create", "website", "--json").json() == made
    assert "is there already" in cli.succeed("projects", "create", "website")


def test_a_key_is_shown_once_with_what_it_reaches(cli: Cli) -> None:
    project = cli.run("projects", "create", "website", "--json").json()
    made = cli.run("keys", "create", "--project", "website", "--scope", "write,read", "--json").json()
    assert set(made) == {"key", "id", "teamId", "projectId", "scopes"}
    assert (made["teamId"], made["projectId"]) == (project["teamId"], project["id"])
    assert made["scopes"] == ["read", "write"]
    assert len(made["key"]) == len("onl_") + 43

    assert made["key"] not in cli.succeed("keys", "list", "--json")
    for path in cli.home.glob("onlooker.db*"):
        assert made["key"].encode() not in path.read_bytes()


def test_other_servers_names_of_scopes_are_taken(cli: Cli) -> None:
    named = "events:write,sessions:write,observations:read,jobs:read,memories:read,memories:write"
    assert cli.run("keys", "create", "--scope", named, "--json").json()["scopes"] == ["read", "write"]
    made = cli.run("keys", "create", "--scope", "observations:read,jobs:read,memories:read", "--json").json()
    assert made["scopes"] == ["read"]


def test_without_a_project_a_key_reaches_the_team(cli: Cli) -> None:
    assert cli.run("keys", "create", "--json").json()["projectId"] is None


def test_a_revoked_key_is_listed_as_revoked(cli: Cli) -> None:
    made = cli.run("keys", "create", "--name", "laptop", "--json").json()
    cli.succeed("keys", "revoke", made["id"])
    [key] = [each for each in cli.run("keys", "list", "--json").json()["keys"] if each["id"] == made["id"]]
    assert key["revokedAtEpoch"] > 0
    assert "revoked" in next(line for line in cli.succeed("keys", "list").splitlines() if "laptop" in line)


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--project", "none"),
        ("keys", "revoke", "none"),
        ("search", "--project", "none", "x"),
        ("jobs", "list", "--project", "none"),
        ("jobs", "show", "none"),
        ("jobs", "retry", "none"),
        ("jobs", "cancel", "none"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_one_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli.run(*arguments)
    assert (ended.code, ended.out) == (1, "")
    assert one_line(ended.err)


def test_a_key_file_that_holds_no_key_is_one_line(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "key").write_text("oops")
    ended = cli.run("projects", "list")
    assert ended.code == 2
    assert str(cli.home / "key") in one_line(ended.err)


def test_homes_are_apart(cli: Cli, tmp_path: Path) -> None:
    cli.succeed("projects", "create", "website")
    assert "website" not in Cli(tmp_path / "other").succeed("projects", "list")
