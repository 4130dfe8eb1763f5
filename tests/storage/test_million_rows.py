"""With a million rows in each large table, no statement of a request or of a worker reads more than its own rows.

What is run is what the server and the worker run; each of their statements is then explained, with its values, and
must touch few pages. A table that is read from one end to the other has more.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, Engine, event, text

from onlooker.domain.models import KeyScope
from onlooker.settings import load_settings
from served import Site, Tenant, site_with
from waiting import wait_until

ROWS = 1_000_000
SESSIONS = 10_000
LIVE_FROM = 999_800
"""The jobs from this one on wait."""

MOST_PAGES = 6_000
"""Of 8 KB, a page counted each time that it is looked at: some 24 for each of 200 heads that are rung."""

LARGE = ("agent_events", "observation_generation_jobs", "observations", "messages")
EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")

FILL = """
INSERT INTO server_sessions (id, team_id, project_id, content_session_id, metadata, last_seq, started_at, created_at,
                             updated_at)
SELECT 's' || n, '{team}', '{project}', 'agent-' || n, '{{}}', {rows} / {sessions}, n, n, n
FROM generate_series(0, {sessions} - 1) n;

INSERT INTO agent_events (id, team_id, project_id, session_id, seq, event_key, source_type, source_adapter, event_type,
                          payload, metadata, occurred_at, received_at, created_at)
SELECT 'e' || n, '{team}', '{project}', 's' || n % {sessions}, 1 + n / {sessions}, 'k' || n, 'hook', 'claude-code',
       CASE WHEN n % 50 = 0 THEN 'user_prompt' ELSE 'tool_use' END, '{{}}', '{{}}', n, n, n
FROM generate_series(0, {rows} - 1) n;

INSERT INTO observation_generation_jobs (id, team_id, project_id, session_id, seq, kind, status, source_type, source_id,
                                         max_attempts, created_at, updated_at, completed_at, failed_at)
SELECT 'j' || n, '{team}', '{project}', 's' || n % {sessions}, 1 + n / {sessions}, 'event',
       CASE WHEN n >= {live} THEN 'queued' WHEN n % 500 = 0 THEN 'failed' ELSE 'completed' END, 'event', 'e' || n, 5, n,
       n, CASE WHEN n < {live} AND n % 500 <> 0 THEN n END, CASE WHEN n < {live} AND n % 500 = 0 THEN n END
FROM generate_series(0, {rows} - 1) n;

INSERT INTO observations (id, team_id, project_id, session_id, kind, title, subtitle, narrative, facts, concepts,
                          files_read, files_modified, content, generation_key, created_by_job_id, metadata, hidden,
                          analyser_version, occurred_at, created_at, updated_at)
SELECT 'o' || n, '{team}', '{project}', 's' || n % {sessions}, 'discovery', 'title', '', '', '[]', '[]', '[]', '[]', '',
       'g' || n, 'j' || n, '{{}}', false, 1, n, n, n
FROM generate_series(0, {rows} - 1) n;

INSERT INTO messages (lane, exclusive, id, type, body, state, head, due, attempt, enqueued_at, finished_at)
SELECT 'session.s' || n % {sessions}, true, 'j' || n, 'event', '', CASE WHEN n >= {live} THEN 0 ELSE 2 END,
       n >= {live}, 0, 0, n, CASE WHEN n < {live} THEN 4000000000000 END
FROM generate_series(0, {rows} - 1) n;
"""


async def fill(url: str, tenant: Tenant) -> None:
    """Without its indexes a table is filled in a fraction of the time; foreign keys ask no plan for anything."""
    connection = await asyncpg.connect(url)
    try:
        keys = await connection.fetch(
            "SELECT conrelid::regclass::text AS owner, conname FROM pg_constraint WHERE contype = 'f'"
        )
        indexes = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY ($1) AND indexname NOT IN"
            " (SELECT conname FROM pg_constraint)",
            [*LARGE, "server_sessions"],
        )
        for each in keys:
            await connection.execute(f'ALTER TABLE {each["owner"]} DROP CONSTRAINT "{each["conname"]}"')
        for each in indexes:
            await connection.execute(f'DROP INDEX "{each["indexname"]}"')
        await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
        await connection.execute(
            FILL.format(team=tenant.team_id, project=tenant.project_id, rows=ROWS, sessions=SESSIONS, live=LIVE_FROM)
        )
        for each in indexes:
            await connection.execute(each["indexdef"])
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


@contextmanager
def explained_statements() -> Iterator[dict[str, int]]:
    """The pages that each statement touches that is sent to Postgres meanwhile, the most of its runs.

    It is run and undone just before, with its values: afterwards, what it wrote would be in its way.
    """
    touched: dict[str, int] = {}

    def explain(conn: Connection, _cursor: object, statement: str, values: Any, _context: object, _many: bool) -> None:
        if not statement.lstrip().startswith(EXPLAINED):
            return
        undone = conn.begin_nested()
        try:
            told = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values).scalar_one()
        finally:
            undone.rollback()
        plan = told[0]["Plan"]
        touched[statement] = max(touched.get(statement, 0), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield touched
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


@asynccontextmanager
async def large_site(url: str, home: Path) -> AsyncIterator[Site]:
    async with site_with(load_settings(home=home, database_url=url)) as site:
        await fill(url, site.ours)
        yield site


async def ask_everything(site: Site) -> None:
    """The requests of agents, of people and of whoever watches the server."""
    ours = site.ours
    key = await site.key(KeyScope.READ, KeyScope.WRITE, project_id=ours.project_id)
    async with site.client(key) as client:
        asked = [
            client.post("/v1/events", json=site.event(1)),
            client.post("/v1/events", json=site.event(1)),
            client.post("/v1/events/batch", json=[site.event(n, contentSessionId=f"agent-{n}") for n in range(20)]),
            client.post("/v1/sessions/start", json={"projectId": ours.project_id, "contentSessionId": "agent-7"}),
            client.get("/v1/sessions/s7"),
            client.get("/v1/events/e77"),
            client.get("/v1/events/e77/observations"),
            client.get("/v1/observations/o77"),
            client.get("/v1/jobs/j77"),
            client.get("/v1/jobs", params={"status": "queued"}),
            client.get("/v1/jobs", params={"status": "failed", "limit": 50}),
            client.get("/v1/jobs", params={"since": ROWS - 1000}, headers={"authorization": f"Bearer {ours.key}"}),
            client.post("/v1/jobs/j500/retry"),
            client.post("/v1/jobs/j999999/cancel"),
            client.get("/api/health"),
            client.get("/api/readiness"),
        ]
        for each in asked:
            answer = await each
            assert answer.status_code < 300, f"{answer.request.url}: {answer.text}"


async def work_through(site: Site) -> None:
    """The outbox's look at all lanes, and a worker that serves them, those of the new events last."""
    await site.app.outbox.reconcile()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(site.app.worker.run(stop))
        await wait_until(lambda: is_drained(site), timeout_s=200)
        stop.set()


def table_pages(conn: Connection) -> list[int]:
    """How many pages each of the large tables has."""
    pages = text("SELECT relpages FROM pg_class WHERE relname = ANY (:names)")
    return list(conn.execute(pages, {"names": list(LARGE)}).scalars())


async def is_drained(site: Site) -> bool:
    return (await site.app.queue.depth()).pending == 0


@pytest.mark.timeout(400)
async def test_every_statement_finds_its_rows_by_an_index(postgres_database_prepared: str, tmp_path: Path) -> None:
    async with large_site(postgres_database_prepared, tmp_path) as site:
        sizes = await site.app.database.read(table_pages)
        with explained_statements() as touched:
            await ask_everything(site)
            await work_through(site)
    assert min(sizes) > MOST_PAGES, "a table read whole would not show"
    assert len(touched) > 40, "the statements were not noted"
    assert any("INTO search_entries" in each for each in touched), "no observation was stored"
    assert {each: pages for each, pages in touched.items() if pages > MOST_PAGES} == {}
