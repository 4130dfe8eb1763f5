"""Which project a folder is: by repository, by path, by name, or none at all."""

import os
import subprocess
from pathlib import Path

import pytest

from onlooker.domain.models import Principal, Scope
from onlooker.domain.places import Place, place_of_folder
from onlooker.hooks import client
from onlooker.host import new_id, now_ms
from onlooker.services.accounts import Accounts
from onlooker.storage.database import Database

REMOTE = "git@example.org:Dev/Tally.git"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=dev", "-c", "user.email=dev@example.org")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", *identity, "-C", folder, *arguments], check=True, capture_output=True, env=env)


def repository(folder: Path, remote: str | None = None) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    if remote is not None:
        git(folder, "remote", "add", "origin", remote)
    return folder


def found(folder: Path, home: Path | None = None) -> tuple[str, str]:
    place = client.find_place(str(folder), str(home or ""))
    return place.name, place.identity


@pytest.mark.parametrize(
    "remote",
    [
        "git@example.org:Dev/Tally.git",
        "ssh://git@example.org:2222/dev/tally",
        "https://dev:token@example.org/dev/tally.git/",
        "HTTPS://Example.org/dev/tally",
        "git://example.org/dev/tally.git",
    ],
)
def test_clones_of_one_repository_are_one_place_however_they_were_cloned(tmp_path: Path, remote: str) -> None:
    inside = repository(tmp_path / "any" / "folder", remote) / "src" / "deep"
    inside.mkdir(parents=True)
    assert found(inside) == ("tally", "git:example.org/dev/tally")


def test_a_worktree_is_where_its_repository_is(tmp_path: Path) -> None:
    main = repository(tmp_path / "tally")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", "../elsewhere", "-b", "other")
    assert found(tmp_path / "elsewhere") == found(main) == ("tally", f"path:{main}")


def test_a_clone_of_a_folder_is_where_that_is(tmp_path: Path) -> None:
    main = repository(tmp_path / "tally")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(tmp_path, "clone", "-q", "tally", "copy")
    assert found(tmp_path / "copy") == ("tally", f"path:{main}")


def test_a_submodule_is_a_place_of_its_own(tmp_path: Path) -> None:
    part = repository(tmp_path / "part")
    git(part, "commit", "-q", "--allow-empty", "-m", "first")
    whole = repository(tmp_path / "whole", REMOTE)
    git(whole, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(part), "lib")
    assert found(whole / "lib") == ("part", f"path:{part}")


def test_another_remote_counts_where_none_is_named_origin(tmp_path: Path) -> None:
    folder = repository(tmp_path / "tally")
    git(folder, "remote", "add", "upstream", "https://example.org/them/tally")
    assert found(folder) == ("tally", "git:example.org/them/tally")


def test_a_folder_without_git_is_its_path(tmp_path: Path) -> None:
    assert found(tmp_path) == (tmp_path.name, f"path:{tmp_path}")


def test_a_name_in_the_nearest_file_or_in_the_environment_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = repository(tmp_path / "tally", REMOTE) / "src"
    inside.mkdir()
    (tmp_path / ".onlooker.toml").write_text('project = "far"\n')
    (tmp_path / "tally" / ".onlooker.toml").write_text('# ours\nproject = "near"\n')
    assert found(inside) == ("near", "name:near")
    monkeypatch.setenv("ONLOOKER_PROJECT", "given")
    assert found(inside) == ("given", "name:given")


@pytest.mark.parametrize("content", ["project = ", "project = 7", "\xff", ""])
def test_a_file_that_says_nothing_is_no_matter(tmp_path: Path, content: str) -> None:
    (tmp_path / ".onlooker.toml").write_bytes(content.encode("latin-1"))
    assert found(tmp_path) == (tmp_path.name, f"path:{tmp_path}")


def test_a_folder_is_excluded_by_file_by_list_and_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work, other = (tmp_path / name for name in ("home", "work", "other"))
    for folder in (home, work / "inside", other):
        folder.mkdir(parents=True)

    def excluded(folder: Path) -> bool:
        return client.find_place(str(folder), str(home)).excluded

    assert not excluded(work / "inside")
    (home / "excluded").write_text(f"\n{work}\n")
    assert excluded(work / "inside")
    assert not excluded(other)
    (other / ".onlooker.toml").write_text("exclude = true\n")
    assert excluded(other)
    assert not excluded(home)
    (other / ".onlooker.toml").write_text("exclude = true\nproject = [\n")
    assert excluded(other)
    (other / ".onlooker.toml").write_text("project = [\n")
    assert not excluded(other)
    monkeypatch.setenv("ONLOOKER_EXCLUDE", "1")
    assert excluded(home)


def test_nothing_is_written_where_a_place_is_looked_for(tmp_path: Path) -> None:
    folder = repository(tmp_path / "tally", REMOTE)
    before = sorted(tmp_path.rglob("*"))
    found(folder)
    assert sorted(tmp_path.rglob("*")) == before


async def owner(database: Database, tmp_path: Path) -> tuple[Accounts, Principal]:
    accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
    return accounts, (await accounts.ensure_local(tmp_path)).principal


async def name_of(accounts: Accounts, principal: Principal, scope: Scope) -> str:
    return next(each.name for each in await accounts.list_projects(principal) if each.id == scope.project_id)


async def test_two_folders_of_one_name_are_two_projects_for_good(database: Database, tmp_path: Path) -> None:
    accounts, principal = await owner(database, tmp_path)
    first, second = place_of_folder("/home/ada/tally"), place_of_folder("/home/bob/tally")

    scopes = [await accounts.project_at(principal, place) for place in (first, second, first, second)]
    later = Accounts(database, new_id=new_id, now_ms=now_ms)

    assert [await name_of(accounts, principal, scope) for scope in scopes[:2]] == ["tally", "tally-2"]
    assert scopes[2:] == scopes[:2] == [await later.project_at(principal, place) for place in (first, second)]


async def test_a_project_that_somebody_made_is_taken_by_the_first_place_of_its_name(
    database: Database, tmp_path: Path
) -> None:
    accounts, principal = await owner(database, tmp_path)
    made, _ = await accounts.create_project(principal, "tally")
    scope = await accounts.project_at(principal, place_of_folder("/home/ada/tally"))
    assert scope.project_id == made.id


async def test_a_named_project_is_one_from_wherever_it_is_named(database: Database, tmp_path: Path) -> None:
    accounts, principal = await owner(database, tmp_path)
    taken = await accounts.project_at(principal, place_of_folder("/home/ada/tally"))
    named = await accounts.project_at(principal, Place("tally", "name:tally"))
    assert named == taken
