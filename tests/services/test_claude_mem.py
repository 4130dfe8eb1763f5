"""Importing from claude-mem: every version, again, while it is in use, and rows of any shape."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from claude_mem_made import EVERY, NOW, OLDEST, VERSIONS, add, make_database, note
from databases import copy_sqlite
from onlooker.app import App, build_claude_mem_import, open_app
from onlooker.domain.models import Observation, ObservationKind, Project, Scope
from onlooker.services.claude_mem import FromClaudeMem
from onlooker.settings import load_settings
from onlooker.storage.forgetting import Selection
from served import Tenant, new_tenant

LATEST = list(VERSIONS)[-1]
SECRET = "ghp_" + "a1B2" * 9


@dataclass
class Importer:
    """An application, a tenant in it, and a place for the foreign database."""

    app: App
    tenant: Tenant
    path: Path

    async def bring(self, project: Project | None = None) -> FromClaudeMem:
        return await build_claude_mem_import(self.app).run(self.tenant.principal, self.path, project=project)

    async def scope(self, name: str) -> Scope:
        project = await self.app.accounts.find_project(self.tenant.principal, name)
        return Scope(project.team_id, project.id)

    async def notes(self, project: str) -> dict[str, Observation]:
        """The project's notes by title."""
        found = await self.app.recall.recent(await self.scope(project), limit=100)
        return {each.title: each for each in found}


@pytest_asyncio.fixture
async def importer(prepared_sqlite: Path, tmp_path: Path) -> AsyncIterator[Importer]:
    home = tmp_path / "home"
    home.mkdir()
    url = copy_sqlite(prepared_sqlite, home / "onlooker.db")
    async with open_app(load_settings(home=home, database_url=url)) as app:
        yield Importer(app, await new_tenant(app), tmp_path / "claude-mem.db")


@pytest.mark.parametrize("version", EVERY)
async def test_every_version_comes_with_its_dates_and_comes_once(importer: Importer, version: str) -> None:
    make_database(importer.path, version)
    before = importer.path.read_bytes()

    done = await importer.bring()
    assert (done.observations, done.summaries, done.known) == (3, 1, 0)
    assert done.sessions == (1 if version == OLDEST else 2)
    assert done.prompts == (0 if version in {OLDEST, "4.0.2"} else 4)
    again = await importer.bring()
    assert (again.observations, again.summaries, again.prompts) == (0, 0, 0)
    assert again.known == 4 + done.prompts
    assert importer.path.read_bytes() == before

    found = await importer.notes("project-0")
    first = found["Parser fix 0"]
    assert (first.kind, first.occurred_at) == (ObservationKind.BUGFIX if version != OLDEST else first.kind, NOW)
    assert (first.facts, first.concepts) == (("fact 0", "comments are tokens"), ("gotcha",))
    assert first.files_read == ("src/lexer.py",)
    assert first.session_id is not None
    if version == OLDEST:
        assert found["An overview"].kind is ObservationKind.SUMMARY
        assert done.skipped["transcript_events"] == 1
        return
    assert found["Parser fix 2"].kind is ObservationKind.DISCOVERY
    assert list(await importer.notes("project-1")) == ["Parser fix 1"]
    assert found["Make the parser keep comments"].facts == (
        "request: Make the parser keep comments",
        "completed: Comments are kept",
        "next_steps: Keep blank lines too",
    )


async def test_tables_that_are_not_imported_are_counted_but_for_its_own(importer: Importer) -> None:
    make_database(importer.path, LATEST)
    with closing(sqlite3.connect(importer.path)) as writer:
        writer.execute('CREATE TABLE "what a ""later"" one adds" (id)')
        writer.execute("INSERT INTO observation_feedback (id) VALUES (1), (2)")
        writer.execute("CREATE VIRTUAL TABLE observations_fts USING fts5(title)")
        writer.execute("INSERT INTO observations_fts VALUES ('x')")
        add(writer, "pending_messages", {"session_db_id": 1, "message_type": "observation", "status": "pending"})
        writer.commit()
        pending = writer.execute("SELECT count(*) FROM pending_messages").fetchone()[0]
    skipped = (await importer.bring()).skipped
    assert {name: count for name, count in skipped.items() if count} == {
        "observation_feedback": 2,
        "pending_messages": pending,
    }


async def test_a_page_of_many_projects_comes_whole_on_either_database(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "claude-mem.db"
    make_database(path, LATEST, notes=0)
    with closing(sqlite3.connect(path)) as writer:
        for n in range(600):
            add(
                writer, "observations", {**note(n), "project": f"many-{n % 40}", "memory_session_id": f"memory-{n % 2}"}
            )
        writer.commit()
    async with open_app(load_settings(home=tmp_path, database_url=database_url)) as app:
        importer = Importer(app, await new_tenant(app), path)
        assert (await importer.bring()).observations == 600
        assert [len(await importer.notes(f"many-{n}")) for n in range(40)] == [15] * 40
        again = await importer.bring()
        assert (again.observations, again.known) == (0, 605)


async def test_a_database_in_use_is_read_with_its_log(importer: Importer) -> None:
    make_database(importer.path, LATEST)
    with closing(sqlite3.connect(importer.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        add(writer, "observations", {**note(8), "title": "Only in the log"})
        assert (await importer.bring()).observations == 4
    assert "Only in the log" in await importer.notes("project-0")


async def test_odd_rows_are_taken_as_far_as_they_go_and_the_rest_is_counted(importer: Importer) -> None:
    make_database(importer.path, LATEST, notes=0)
    dated: dict[str, object] = {"created_at_epoch": NOW, "project": "project-0"}
    odd: list[dict[str, object]] = [
        {**dated, "title": "Lists that are none", "facts": "one\ntwo", "concepts": "a, b", "files_read": None},
        {**dated, "title": "A date as text", "created_at": "2026-05-28T20:26:40Z", "created_at_epoch": None},
        {**dated, "title": "No date", "created_at": "yesterday", "created_at_epoch": "x"},
        {**dated, "title": None, "narrative": None, "text": ""},
        {**dated, "title": b"bytes \xff", "facts": "{}", "memory_session_id": "unknown"},
        {**dated, "title": f"Token {SECRET} <private>hush</private>", "facts": '[1, null, "x"]'},
        {**dated, "title": "NUL \x00 here", "facts": "[" * 5000, "type": 7},
        {"title": "A long name", "project": "p" * 2000, "created_at_epoch": NOW},
    ]
    with closing(sqlite3.connect(importer.path)) as writer:
        for row in odd:
            add(writer, "observations", row)
        writer.commit()

    done = await importer.bring()
    assert done.observations == 6
    assert done.skipped["empty or without a date"] == 2
    found = await importer.notes("project-0")
    lists = found["Lists that are none"]
    assert (lists.facts, lists.concepts) == (("one", "two"), ("a", "b"))
    assert found["A date as text"].occurred_at == 1_780_000_000_000
    assert found["bytes \ufffd"].session_id is None
    everything = b"".join(each.read_bytes() for each in importer.path.with_name("home").rglob("*") if each.is_file())
    assert SECRET.encode() not in everything
    assert b"hush" not in everything


async def test_what_was_forgotten_does_not_come_back(importer: Importer) -> None:
    make_database(importer.path, LATEST)
    await importer.bring()
    scope = await importer.scope("project-1")
    await importer.app.forget.forget(importer.tenant.principal, scope, Selection(text="Parser fix 1"))
    assert (await importer.bring()).observations == 0
    assert await importer.notes("project-1") == {}


async def test_what_was_deleted_does_not_come_back(importer: Importer) -> None:
    make_database(importer.path, LATEST)
    await importer.bring()
    scope, (note,) = await importer.scope("project-1"), (await importer.notes("project-1")).values()
    await importer.app.recall.delete(importer.tenant.principal, scope, note.id)
    assert (await importer.bring()).observations == 0
    assert await importer.notes("project-1") == {}


async def test_everything_can_go_into_one_project(importer: Importer) -> None:
    make_database(importer.path, LATEST)
    await importer.bring(importer.tenant.project)
    assert len(await importer.notes(importer.tenant.project.name)) == 4
    assert len(await importer.app.accounts.list_projects(importer.tenant.principal)) == 1
