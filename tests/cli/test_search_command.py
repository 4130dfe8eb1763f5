"""What a person finds at the command line: in which project and session, and page by page."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli_runner import Cli
from onlooker.app import find_place, open_app
from onlooker.domain.models import NewSession, Scope
from onlooker.host import new_id
from onlooker.services.recall import NoteInput
from onlooker.settings import load_settings
from onlooker.storage import sessions

AGENTS_SESSION = "3f1c2a90-agent"


@dataclass
class Filled:
    """A home with notes in two of its three projects, one of them of a session."""

    cli: Cli
    ids: dict[str, str]
    session_id: str

    def found(self, *arguments: str) -> list[str]:
        told = self.cli.run("search", "cache", *arguments, "--json").json()
        return [note["content"] for note in told["observations"]]


@pytest.fixture
def filled(cli: Cli) -> Filled:
    async def fill() -> Filled:
        async with open_app(load_settings(home=cli.home)) as app:
            local = (await app.accounts.ensure_local(cli.home)).principal
            made = [(await app.accounts.create_project(local, name))[0] for name in ("tally", "abacus", "empty")]
            scopes = [Scope(project.team_id, project.id) for project in made]
            new = NewSession(new_id(), content_session_id=AGENTS_SESSION, started_at=1)
            session, _ = await app.database.tx(lambda conn: sessions.open_session(conn, scopes[0], new, 1))
            for number, scope in enumerate((scopes[0], scopes[1], scopes[0])):
                note = NoteInput(f"cache {number}", session_id=None if number else session.id)
                await app.recall.add(local, scope, note)
            return Filled(cli, {project.name: project.id for project in made}, session.id)

    return asyncio.run(fill())


def test_projects_are_named_or_told_by_id_and_may_be_several(filled: Filled) -> None:
    assert set(filled.found()) == {"cache 0", "cache 1", "cache 2"}
    assert set(filled.found("--project", "tally", "--project", filled.ids["empty"])) == {"cache 0", "cache 2"}
    assert filled.found("--project", filled.ids["abacus"]) == ["cache 1"]
    assert filled.cli.run("search", "cache", "--project", "nowhere").code == 1
    pages = [*filled.found("--limit", "2"), *filled.found("--limit", "2", "--offset", "2")]
    assert sorted(pages) == ["cache 0", "cache 1", "cache 2"]


@pytest.mark.parametrize("by_the_agents", [True, False])
def test_a_session_is_told_by_its_id_or_by_the_agents(filled: Filled, *, by_the_agents: bool) -> None:
    session = AGENTS_SESSION if by_the_agents else filled.session_id
    assert filled.found("--session", session) == ["cache 0"]
    assert filled.cli.run("search", "cache", "--session", "of nobody").code == 1
    said = filled.cli.succeed("forget", "--project", filled.ids["tally"], "--session", session, "--yes")
    assert "Forgot 1 observations" in said
    assert sorted(filled.found()) == ["cache 1", "cache 2"]


def test_a_person_reads_what_a_new_session_is_told(filled: Filled) -> None:
    shown = filled.cli.run("context", "--project", "tally").out
    assert shown.startswith("# tally")
    assert "cache 0" in shown
    assert "cache 1" not in shown
    assert filled.cli.run("context", "--project", "empty").out == "There is nothing to tell yet.\n"
    assert filled.cli.run("context", "--project", "abacus", "--query", "cache", "--json").json()["tokens"] <= 2_000


def test_a_new_session_is_told_what_was_seen_in_the_folder_it_starts_in(filled: Filled, tmp_path: Path) -> None:
    async def begin(at: Path) -> None:
        async with open_app(load_settings(home=filled.cli.home)) as app:
            local = (await app.accounts.ensure_local(filled.cli.home)).principal
            place = find_place(str(at), app.settings)
            assert place is not None
            await app.recall.add(
                local, await app.accounts.project_at(local, place), NoteInput("the rounding is by bank")
            )

    folder = tmp_path / "ledger" / "src"
    folder.mkdir(parents=True)
    (folder.parent / ".git").mkdir()
    asyncio.run(begin(folder.parent))
    assert "the rounding is by bank" in filled.cli.run("context", folder=folder).out

    named = {"ONLOOKER_PROJECT": "abacus"}
    assert "cache 1" in filled.cli.run("context", folder=folder, env=named).out
    assert "cache 0" in filled.cli.run("context", "--project", "tally", folder=folder, env=named).out

    filled.cli.succeed("exclude", str(folder))
    for elsewhere in (folder, tmp_path):
        unclear = filled.cli.run("context", folder=elsewhere)
        assert unclear.code == 2
        assert "abacus, default, empty, ledger, tally" in unclear.err
    assert len(filled.cli.run("projects", "list", "--json").json()["projects"]) == 5
