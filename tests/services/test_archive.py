"""What is exported comes back as it was: from either database into either, once, and as far as a damaged file goes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli_runner import Cli, one_line
from databases import copy_sqlite
from onlooker.app import App, open_app, running
from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Principal, Project, Scope, SearchFilter
from onlooker.services import archive
from onlooker.services.archive import Restored, Restoring
from onlooker.services.ingest import EventInput
from onlooker.services.recall import NoteInput
from onlooker.settings import load_settings
from onlooker.storage.archive import KEYS
from onlooker.storage.retention import Retention
from onlooker.storage.verdicts import Verdict
from waiting import wait_until

AT = 1_790_000_000_000
LOCAL = "default"


@asynccontextmanager
async def opened(url: str, home: Path) -> AsyncIterator[App]:
    async with open_app(load_settings(home=home, database_url=url)) as app:
        yield app


async def local(app: App) -> tuple[Principal, Project]:
    found = await app.accounts.ensure_local(app.settings.home)
    return found.principal, found.project


def event(project: Project, number: int, event_type: str = "tool_use", **payload: Any) -> EventInput:
    return EventInput(
        project_id=project.id,
        source_type="hook",
        event_type=event_type,
        occurred_at=AT + number,
        payload=payload
        or {"tool_name": "Bash", "tool_input": {"command": f"pytest -k {number}"}, "tool_response": "3 passed"},
        content_session_id=f"session-{number % 2}",
        source_event_id=f"e-{number}",
        platform_source="claude-code",
    )


async def fill(app: App) -> None:
    """Something in nearly every table: observed, waiting, forgotten, judged and limited."""
    principal, project = await local(app)
    scope = Scope(project.team_id, project.id)
    done = [event(project, n) for n in range(6)]
    done.append(event(project, 6, "user_prompt", prompt="make it “round” \x00\n now"))
    done.append(event(project, 8, "turn_end", last_assistant_message="All done: rounding is fixed in money.py."))
    async with running(app, with_worker=True):
        recorded = await app.ingest.record_many(principal, done)
        jobs = [each.job.id for each in recorded if each.job is not None]

        async def settled() -> bool:
            statuses = [(await app.jobs.get(scope, job)).status for job in jobs]
            return all(status == "completed" for status in statuses)

        await wait_until(settled)
    await app.ingest.record_many(principal, [event(project, n) for n in range(20, 23)])
    notes = [await app.recall.add(principal, scope, NoteInput(f"note {n}", occurred_at=AT)) for n in range(3)]
    await app.recall.judge(principal, scope, notes[0].id, Verdict.USEFUL)
    await app.recall.judge(principal, scope, notes[1].id, Verdict.WRONG)
    await app.recall.delete(principal, scope, notes[2].id)
    await app.retaining.put(principal, scope, Retention(events_days=400))


async def exported(app: App) -> list[str]:
    principal, _ = await local(app)
    team = await app.accounts.team_of(principal)
    projects = await app.accounts.list_projects(principal)
    return [line async for line in archive.lines(app.database, team, projects)]


async def restored(app: App, lines: list[str]) -> Restored:
    restoring = Restoring(app.database, lines)
    await restoring.begin()
    await local(app)
    told = [Restored(), *[so_far async for so_far in restoring.run()]]
    return told[-1]


async def test_what_is_exported_comes_back_as_it_was_and_once(
    database_url: str, prepared_sqlite: Path, tmp_path: Path
) -> None:
    async with opened(database_url, tmp_path / "from") as app:
        await fill(app)
        lines = await exported(app)
    assert len({json.loads(line).get("table") for line in lines}) >= 10

    target = copy_sqlite(prepared_sqlite, tmp_path / "to.db")
    async with opened(target, tmp_path / "to") as app:
        done = await restored(app, lines)
        assert (done.new, done.known, done.moved) == (len(lines) - 1, 0, False)
        assert sorted(await exported(app)) == sorted(lines)

        again = await restored(app, lines)
        assert (again.new, again.known) == (0, len(lines) - 1)
        assert sorted(await exported(app)) == sorted(lines)

        principal, project = await local(app)
        scope = Scope(project.team_id, project.id)
        assert {hit.observation.content for hit in await app.recall.search(scope, "note", SearchFilter(), limit=5)} == {
            "note 0"
        }
        (resent,) = await app.ingest.record_many(principal, [event(project, 3)])
        assert resent.duplicate


async def test_jobs_that_waited_are_worked_on_in_their_new_home(prepared_sqlite: Path, tmp_path: Path) -> None:
    async with opened(copy_sqlite(prepared_sqlite, tmp_path / "from.db"), tmp_path / "from") as app:
        principal, project = await local(app)
        recorded = await app.ingest.record_many(principal, [event(project, n) for n in range(4)])
        lines = await exported(app)
    async with opened(copy_sqlite(prepared_sqlite, tmp_path / "to.db"), tmp_path / "to") as app:
        await restored(app, lines)
        scope = Scope(project.team_id, project.id)

        async def settled() -> bool:
            jobs = [await app.jobs.get(scope, each.job.id) for each in recorded if each.job is not None]
            return all(job.status == "completed" for job in jobs)

        async with running(app, with_worker=True):
            await wait_until(settled)


async def test_into_a_home_that_is_in_use_projects_of_one_name_are_joined(
    prepared_sqlite: Path, tmp_path: Path
) -> None:
    async with opened(copy_sqlite(prepared_sqlite, tmp_path / "from.db"), tmp_path / "from") as app:
        await fill(app)
        lines = await exported(app)
    async with opened(copy_sqlite(prepared_sqlite, tmp_path / "to.db"), tmp_path / "to") as app:
        principal, project = await local(app)
        scope = Scope(project.team_id, project.id)
        await app.recall.add(principal, scope, NoteInput("note that was here"))
        done = await restored(app, lines)
        assert (done.new, done.moved) == (len(lines) - 1, True)
        found = await app.recall.search(scope, "note", SearchFilter(), limit=9)
        assert {hit.observation.content for hit in found} == {"note 0", "note that was here"}


HEAD = "HEAD"
"""Stands for an archive's own first line."""


@pytest.mark.parametrize(
    "lines, told",
    [
        ([HEAD, '{"table":"turns","r'], "line 2 is not JSON"),
        ([HEAD, "[1]"], "line 2 is no object"),
        (["{}"], "no archive"),
        ([], "not JSON"),
        (['{"format":"onlooker-archive","version":2}'], "version 2"),
        (['{"format":"onlooker-archive","version":1}'], "damaged"),
        ([HEAD, '{"table":"api_keys","row":{}}'], "line 2 is no row"),
        ([HEAD, '{"table":"turns","row":{"zzz":1}}'], "does not know"),
        ([HEAD, '{"table":"turns","row":{"team_id":"x"}}'], "does not name"),
    ],
)
async def test_a_damaged_archive_is_refused_at_the_line(
    prepared_sqlite: Path, tmp_path: Path, lines: list[str], told: str
) -> None:
    async with opened(copy_sqlite(prepared_sqlite, tmp_path / "from.db"), tmp_path / "from") as app:
        head, *_ = await exported(app)
        with pytest.raises(InvalidInput, match=told):
            await restored(app, [head if line == HEAD else line for line in lines])


def test_every_table_of_a_project_is_in_an_archive_or_made_anew() -> None:
    from onlooker.storage import search_tables, tables

    made_anew = {
        tables.messages, tables.workers, tables.provider_lanes, tables.schema_info, tables.audit_log,
        tables.api_keys, tables.team_members, tables.teams, tables.projects,
    }  # fmt: skip
    searched = {table for table in vars(search_tables).values() if hasattr(table, "c")}
    assert set(tables.metadata.sorted_tables) - searched == set(KEYS) | made_anew


def test_the_commands_move_a_home(tmp_path: Path) -> None:
    here, there = Cli(tmp_path / "here"), Cli(tmp_path / "there")
    here.succeed("projects", "create", "tally")
    path = tmp_path / "all.jsonl"
    assert here.run("export", "--output", str(path)).code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == here.succeed("export")
    assert there.run("import", "archive", str(path), "--json").json()["moved"] is False
    assert there.succeed("export") == path.read_text()
    path.write_text("nonsense")
    ended = there.run("import", "archive", str(path))
    assert ended.code == 2
    one_line(ended.err)
