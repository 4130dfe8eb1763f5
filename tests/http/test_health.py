"""What is told without a key, in good times and bad."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from onlooker import __version__
from onlooker.domain.jobs import KIND_LANES
from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.settings import load_settings
from onlooker.storage import provider_lanes
from served import Site, site_with
from servers import PostgresServer, RedisServer


async def test_the_process_is_alive(site: Site) -> None:
    async with site.client() as nobody:
        answer = await nobody.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "runtime": "server-beta"})


async def test_a_head_is_answered_without_a_body(site: Site) -> None:
    async with site.client() as nobody:
        answer = await nobody.head("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_server_that_can_serve_is_ready(either_site: Site) -> None:
    async with either_site.client() as nobody:
        answer = await nobody.get("/api/readiness")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "problems": []})


async def test_health_tells_each_part(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        await client.post("/v1/events", json=either_site.event())
        answer = await client.get("/api/health")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["runtime"]) == ("ok", "server-beta")
    assert told["queue"]["engine"] == "sql"
    assert told["queue"]["redis"] == {"status": "ok", "mode": "disabled", "host": None, "port": None, "prefix": None}
    assert told["queue"]["depth"]["pending"] == 1
    assert told["queue"]["oldestQueuedMs"] >= 0
    assert told["database"]["status"] == "ok"
    assert told["worker"]["count"] == 0


async def test_health_tells_of_redis_and_of_every_kind_lane(home: Path, sqlite_url: str, redis_database: str) -> None:
    settings = load_settings(
        home=home, database_url=sqlite_url, queue_engine="bullmq", redis_url=redis_database, redis_mode="docker"
    )
    target = urlsplit(redis_database)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        await client.post("/v1/events", json=site.event())
        told = (await client.get("/api/health")).json()["queue"]
        ready = await client.get("/api/readiness")

    about = {"status": "ok", "mode": "docker", "host": target.hostname, "port": target.port, "prefix": "onlooker"}
    assert (told["engine"], told["status"], told["redis"]) == ("bullmq", "ok", about)
    assert told["depth"]["pending"] == 1
    assert set(told["depth"]["kinds"]) == set(KIND_LANES.values())
    assert ready.json() == {"status": "ready", "problems": []}
    assert str(target.password) not in str(told)


async def test_every_host_of_a_database_is_told(home: Path, postgres_database_prepared: str) -> None:
    place = urlsplit(postgres_database_prepared)
    one = f"{place.hostname}:{place.port}"
    settings = load_settings(home=home, database_url=postgres_database_prepared.replace(one, f"{one},{one}"))
    async with site_with(settings) as site, site.client() as nobody:
        told = (await nobody.get("/api/health")).json()
    assert (told["database"]["status"], told["database"]["host"]) == ("ok", f"{one},{one}")
    assert str(place.password) not in str(told)


async def test_the_queue_is_where_the_url_says_as_whom_it_says(
    home: Path, sqlite_url: str, own_redis: RedisServer
) -> None:
    place = f"{own_redis.host}:{own_redis.port}"
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "queue", "on", ">p@ss", "~*", "&*", "+@all")
        settings = load_settings(
            home=home, database_url=sqlite_url, queue_engine="bullmq", queue_prefix="our team:x",
            redis_url=f"redis://queue:p%40ss@{place}/3",
        )  # fmt: skip
        async with site_with(settings) as site, site.client(site.ours.key) as client:
            await client.post("/v1/events", json=site.event())
            told = (await client.get("/api/health")).json()["queue"]
            users = {each["user"] for each in admin.client_list() if each["name"] == "onlooker"}
        assert told["redis"]["prefix"] == "our-team-x"
        assert told["depth"]["pending"] == 1
        assert users == {"queue"}
        assert admin.dbsize() == 0
    with redis.Redis.from_url(f"{own_redis.url.removesuffix('0')}3") as there:
        keys = there.keys()
        assert keys
        assert all(key.startswith(b"our-team-x:") for key in keys)


async def test_a_redis_without_a_password_is_named_by_host_and_port(
    home: Path, sqlite_url: str, own_redis: RedisServer
) -> None:
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.config_set("requirepass", "")
    settings = load_settings(
        home=home, database_url=sqlite_url, queue_engine="bullmq", redis_host=own_redis.host, redis_port=own_redis.port
    )
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        await client.post("/v1/events", json=site.event())
        told = (await client.get("/api/health")).json()["queue"]
    assert (told["redis"]["host"], told["redis"]["port"]) == (own_redis.host, own_redis.port)
    assert told["depth"]["pending"] == 1


async def test_health_says_within_two_seconds_that_redis_is_away(
    home: Path, sqlite_url: str, own_redis: RedisServer
) -> None:
    settings = load_settings(home=home, database_url=sqlite_url, queue_engine="bullmq", redis_url=own_redis.url)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        own_redis.pause()
        try:
            began = time.monotonic()
            frozen = await client.get("/api/health")
            assert time.monotonic() - began < 2.2
        finally:
            own_redis.resume()
        own_redis.kill()
        gone = await client.get("/api/health")
        stored = await client.post("/v1/events", json=site.event())
        own_redis.start()

    assert stored.status_code == 201
    for answer in (frozen, gone):
        told = answer.json()
        assert (answer.status_code, told["status"], told["database"]["status"]) == (503, "degraded", "ok")
        assert (told["queue"]["redis"]["status"], told["queue"]["redis"]["port"]) == ("error", own_redis.port)
        assert f"127.0.0.1:{own_redis.port}" in told["queue"]["error"]
        assert own_redis.password not in answer.text


async def test_info_tells_what_the_server_is_made_of(working_site: Site) -> None:
    async with working_site.client() as nobody:
        answer = await nobody.get("/v1/info")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["name"], told["version"], told["runtime"]) == ("onlooker", __version__, "server-beta")
    assert told["authMode"] == "api-key"
    assert told["postgres"]["initialized"] is True
    assert told["postgres"]["schemaVersion"]
    boundaries = told["boundaries"]
    assert set(boundaries) == {"queueManager", "generationWorkerManager", "providerRegistry", "eventBroadcaster"}
    assert all(set(each) >= {"status", "reason"} for each in boundaries.values())
    assert boundaries["queueManager"]["details"]["lanes"]["event"] == "server_beta_generate_event"


async def test_health_tells_which_models_are_asked_and_why_one_is_not(home: Path, sqlite_url: str) -> None:
    key = "sk-never-to-be-seen"
    settings = load_settings(
        home=home, database_url=sqlite_url, provider="anthropic,openai", anthropic_api_key=key, openai_api_key=key
    )
    paused = LaneState(
        "anthropic", "api", "claude-haiku-4-5", LaneCondition.PAUSED, 1_790_000_000_000, "anthropic at api: 429"
    )
    async with site_with(settings) as site, site.client() as nobody:
        before = (await nobody.get("/api/health")).json()["provider"]
        await site.app.database.tx(lambda conn: provider_lanes.post(conn, paused))
        answer = await nobody.get("/api/health")
        info = (await nobody.get("/v1/info")).json()["boundaries"]["providerRegistry"]
    open_lane = {"provider": "openai", "model": "gpt-5-mini", "status": "open", "until": None, "reason": None}
    paused_lane = {
        "provider": "anthropic", "model": "claude-haiku-4-5", "status": "paused", "until": 1_790_000_000_000,
        "reason": "anthropic at api: 429",
    }  # fmt: skip
    assert (before["name"], before["status"]) == ("anthropic,openai", "ok")
    told = answer.json()
    assert (answer.status_code, told["status"]) == (200, "ok")
    assert told["provider"] == {"name": "anthropic,openai", "status": "degraded", "lanes": [paused_lane, open_lane]}
    assert info["details"]["lanes"] == told["provider"]["lanes"]
    assert key not in answer.text


async def test_nothing_private_is_told(either_site: Site) -> None:
    async with either_site.client() as nobody:
        for path in ("/api/health", "/api/readiness", "/v1/info"):
            text = (await nobody.get(path)).text
            assert str(either_site.app.settings.home) not in text
            assert either_site.ours.team_id not in text


async def test_every_answer_names_its_request(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/nowhere", "/v1/jobs?limit=0", "/docs"):
        given = await client.get(path, headers={"x-request-id": "abc-123"})
        assert given.headers["x-request-id"] == "abc-123"
        ours = [(await client.get(path)).headers["x-request-id"] for _ in range(2)]
        assert ours[0] != ours[1]


@pytest.mark.parametrize("odd", [b"a b", b"x" * 65, b"\xff", b"a;b", b"a\tb"])
async def test_an_odd_request_id_is_not_repeated(client: httpx.AsyncClient, odd: bytes) -> None:
    answer = await client.get("/healthz", headers=[(b"x-request-id", odd)])
    assert answer.headers["x-request-id"].encode("latin-1") != odd


async def test_what_is_not_there_and_what_is_not_allowed(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nowhere")
    assert (missing.status_code, missing.json()) == (404, {"error": "NotFound", "message": "no such path"})
    refused = await client.put("/v1/events")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["error"] == "MethodNotAllowed"
    several = await client.put("/v1/observations/x")
    assert several.headers["allow"] == "DELETE, GET, HEAD"


async def test_health_answers_in_time_when_the_database_is_away(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = load_settings(home=tmp_path_factory.mktemp("home"), database_url=own_postgres.url)
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        assert (await client.get("/api/health")).status_code == 200
        for lose, get_back in ((own_postgres.pause, own_postgres.resume), (own_postgres.kill, own_postgres.start)):
            lose()
            for path in ("/api/health", "/api/readiness", "/v1/info", "/healthz"):
                began = time.monotonic()
                answer = await client.get(path)
                assert time.monotonic() - began < 2, path
                if path in {"/api/health", "/api/readiness"}:
                    assert answer.status_code == 503
                    assert "database" in answer.text
            get_back()
