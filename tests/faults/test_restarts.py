"""A Postgres that goes and comes back, and clients that go: nothing is lost, nothing doubled, nobody hangs."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployment import Deployment, deployment
from outage import see_an_outage
from pgbouncer import pgbouncer
from servers import PostgresServer, ServerFailed, ServerMissing

WORKED_ON_WITHIN_S = 25
"""From the start of a Postgres: every session goes on. A lane that waits for a lease or a look at all rows is later."""


@pytest.fixture(params=["direct", "pooler"])
def url_of_it(request: pytest.FixtureRequest, own_postgres: PostgresServer) -> Iterator[str]:
    """The URL of a Postgres of the test's own: its own one, or that of a PgBouncer before it."""
    if request.param == "direct":
        yield own_postgres.url
        return
    try:
        with pgbouncer(own_postgres.url) as bouncer:
            yield bouncer.url
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.parametrize(
    "ending, url_of_it", [("stopped", "direct"), ("killed", "direct"), ("killed", "pooler")], indirect=["url_of_it"]
)
def test_a_postgres_that_goes_under_load_is_said_and_what_was_accepted_is_done(
    tmp_path: Path, own_postgres: PostgresServer, url_of_it: str, ending: str
) -> None:
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "10", "ONLOOKER_DATABASE_TIMEOUT_S": "2"}
    with deployment(tmp_path, url_of_it, **settings) as it:
        own_postgres.flush_late()
        go = own_postgres.stop if ending == "stopped" else own_postgres.kill
        see_an_outage(it, go=go, come_back=own_postgres.start, worked_on_within_s=WORKED_ON_WITHIN_S)


@pytest.mark.parametrize("ending, within_s", [("killed", 5), ("frozen", 25)])
def test_a_server_is_stopped_in_order_while_its_postgres_is_away(
    tmp_path: Path, own_postgres: PostgresServer, ending: str, within_s: float
) -> None:
    with deployment(tmp_path, own_postgres.url) as it:
        server = it.serve()
        it.post([it.event(0, 0)])
        it.wait_until_settled()
        (own_postgres.kill if ending == "killed" else own_postgres.pause)()
        began = time.monotonic()
        server.terminate()
        assert server.wait(60) == 0, it.log()
        assert time.monotonic() - began < within_s
        assert "Traceback" not in it.log()
        own_postgres.resume()


def test_what_a_client_that_went_away_had_sent_is_stored_once_at_most(tmp_path: Path, database_url: str | None) -> None:
    sessions, each = 40, 5
    with deployment(tmp_path, database_url) as it:
        it.serve()
        chance = random.Random(7)  # noqa: S311 - the same moments in every run
        asyncio.run(send_and_go(it, sessions, each, chance))
        stored = it.stored_events()
        assert len(stored) == len(set(stored)), "an event was stored twice"
        assert len(stored) > 0, "no client went after its event was read"
        with it.client() as client:
            for session in range(sessions):
                for number in range(each):
                    again = client.post("/v1/events", json=it.event(session, number)).raise_for_status().json()
                    once_more = client.post("/v1/events", json=it.event(session, number)).raise_for_status().json()
                    assert once_more["duplicate"] is True
                    assert once_more["event"]["id"] == again["event"]["id"]
                    assert again.get("duplicate") or f"MARK-{session}-{number}" not in stored
        it.wait_until_settled()
        assert sorted(it.stored_events()) == sorted(f"MARK-{s}-{n}" for s in range(sessions) for n in range(each))
        assert it.statuses() == {"completed": sessions * each}
        it.assert_one_at_a_time()
        it.wait_for_no_messages()


async def send_and_go(it: Deployment, sessions: int, each: int, chance: random.Random) -> None:
    """Each client sends an event and closes its connection before the answer, or before the event is whole."""
    port = httpx.URL(it.url).port

    async def send(session: int) -> None:
        for number in range(each):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            request = it.request(it.event(session, number))
            cut = len(request) if chance.random() < 0.8 else chance.randrange(len(request))
            writer.write(request[:cut])
            await writer.drain()
            await asyncio.sleep(chance.random() * 0.2)
            writer.transport.abort()

    async with asyncio.timeout(60), asyncio.TaskGroup() as sending:
        for session in range(sessions):
            sending.create_task(send(session))
