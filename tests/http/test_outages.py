"""What a client is told when the database cannot be used, or too much waits for it."""

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.settings import Settings, load_settings
from served import Site, site_with
from servers import PostgresServer, RedisServer
from waiting import wait_until


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


def check_refusal(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"] in {"StorageUnavailable", "Unavailable"}


async def test_a_locked_database_is_told_and_then_recovers(
    settings: Settings, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onlooker.storage.database.BUSY_TIMEOUT_MS", 200)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        assert (await client.post("/v1/events", json=site.event(0))).status_code == 201
        with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for path, body in (
                ("/v1/events", site.event(1)),
                ("/v1/events/batch", [site.event(2)]),
                ("/v1/sessions/start", {"projectId": site.ours.project_id}),
                ("/v1/observations", {"projectId": site.ours.project_id, "content": "x"}),
            ):
                check_refusal(await client.post(path, json=body))
            # Readers are not held up.
            assert (await client.get("/v1/jobs")).json()["total"] == 1
            other.execute("ROLLBACK")
        assert (await client.post("/v1/events", json=site.event(1))).status_code == 201
        assert (await client.get("/v1/jobs")).json()["total"] == 2


async def test_too_much_waiting_is_refused_and_nothing_of_it_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        site_with(replace(settings, max_waiting_events=4)) as site,
        site.client(site.ours.key) as client,
    ):
        assert (await client.post("/v1/events", json=site.event(0))).status_code == 201
        free = asyncio.Event()
        tx = site.app.database.tx

        async def held(work: object, *, durable: bool = True, urgent: bool = False) -> object:
            await free.wait()
            return await tx(work, durable=durable, urgent=urgent)  # type: ignore[arg-type]  # handed on as it came

        monkeypatch.setattr(site.app.database, "tx", held)
        waiting = [asyncio.create_task(client.post("/v1/events", json=site.event(number))) for number in range(1, 5)]
        await wait_until(lambda: site.app.ingest._writer._waiting_events == 4)
        check_refusal(await client.post("/v1/events", json=site.event(9)))
        check_refusal(await client.post("/v1/events/batch", json=[site.event(9)]))
        free.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {201}
        assert (await client.get("/v1/jobs")).json()["total"] == 5


async def test_a_postgres_that_is_gone_is_told_and_then_recovers(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = load_settings(home=tmp_path_factory.mktemp("home"), database_url=own_postgres.url, database_timeout_s=1)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        assert (await client.post("/v1/events", json=site.event(0))).status_code == 201
        own_postgres.kill()
        check_refusal(await client.post("/v1/events", json=site.event(1)))
        check_refusal(await client.get("/v1/jobs"))
        own_postgres.start()
        assert (await client.post("/v1/events", json=site.event(1))).status_code == 201
        assert (await client.get("/v1/jobs")).json()["total"] == 2


async def test_a_redis_that_does_not_answer_keeps_nobody_waiting(
    home: Path, sqlite_url: str, own_redis: RedisServer
) -> None:
    settings = load_settings(home=home, database_url=sqlite_url, queue_engine="bullmq", redis_url=own_redis.url)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        own_redis.pause()
        try:
            for number in range(2):
                began = time.monotonic()
                answer = await client.post("/v1/events", json=site.event(number))
                assert time.monotonic() - began < 2
                assert answer.status_code == 201
                assert answer.json()["generationJob"]["transport"] == "deferred"
        finally:
            own_redis.resume()
        await wait_until(lambda: is_rung(site))


async def is_rung(site: Site) -> bool:
    await site.app.outbox.reconcile()
    return (await site.app.queue.depth()).pending > 0


async def test_a_defect_is_answered_without_a_word_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("MARK-SECRET")

    monkeypatch.setattr("onlooker.services.recall.Recall.event", broken)
    key = await site.key(KeyScope.READ, project_id=site.ours.project_id)
    async with site.client(key) as client:
        answer = await client.get("/v1/events/x", headers={"x-request-id": "abc"})
    assert answer.status_code == 500
    assert answer.json()["error"] == "InternalError"
    assert "abc" in answer.json()["message"]
    assert "MARK-SECRET" not in answer.text
