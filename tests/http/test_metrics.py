"""What a monitor is told, and who may ask."""

import pytest

from onlooker.domain.models import KeyScope
from onlooker.settings import load_settings
from served import Site, site_with
from servers import PostgresServer

FORWARDED = {"x-forwarded-for": "192.0.2.1"}


def read_metrics(text: str) -> dict[str, float]:
    """Each value by its name and labels, as they are written; every line must be one or a comment."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_the_counts_are_told_to_this_machine_without_a_key(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        await client.post("/v1/events", json=either_site.event())
    async with either_site.client() as monitor:
        answer = await monitor.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    told = read_metrics(answer.text)
    assert told['onlooker_http_requests_total{method="POST",status="201"}'] == 1
    assert told['onlooker_queue_messages{lane="sessions",state="waiting"}'] == 1
    assert told['onlooker_queue_messages{lane="server_beta_generate_summary",state="waiting"}'] == 0
    assert told["onlooker_database_up"] == told["onlooker_queue_up"] == 1
    assert told["onlooker_workers"] == 0
    assert told["onlooker_oldest_queued_seconds"] >= 0
    assert told["process_cpu_seconds_total"] > 0
    assert either_site.ours.project_id not in answer.text


async def test_from_elsewhere_a_key_is_asked_for(site: Site) -> None:
    async with site.client() as nobody:
        assert (await nobody.get("/metrics", headers=FORWARDED)).status_code == 401
        assert (await nobody.get("/metrics", headers={"host": "onlooker.example"})).status_code == 401
    async with site.client(await site.key(KeyScope.WRITE)) as writer:
        assert (await writer.get("/metrics", headers=FORWARDED)).status_code == 403
    async with site.client(await site.key(KeyScope.READ)) as reader:
        assert (await reader.get("/metrics", headers=FORWARDED)).status_code == 200


async def test_methods_that_nobody_knows_are_counted_as_one(site: Site) -> None:
    async with site.client() as client:
        for method in ("MKCOL", "PROPFIND", "LOCK"):
            await client.request(method, "/healthz")
        told = read_metrics((await client.get("/metrics")).text)
    assert told['onlooker_http_requests_total{method="other",status="405"}'] == 3


async def test_parts_that_are_away_are_told_by_a_zero(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = load_settings(home=tmp_path_factory.mktemp("home"), database_url=own_postgres.url)
    async with site_with(settings) as site, site.client() as client:
        own_postgres.kill()
        told = read_metrics((await client.get("/metrics")).text)
        assert told["onlooker_database_up"] == told["onlooker_queue_up"] == 0
        assert "onlooker_workers" not in told
        own_postgres.start()
