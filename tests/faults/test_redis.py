"""Servers and workers on Postgres with the queue in Redis: it is lost, killed, frozen, and so are they."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from deployment import Deployment, deployment, kill
from outage import QUEUE_AWAY, assert_told
from servers import RedisServer, redis_server

SESSIONS = 50
IDLE_S = 31
"""Longer than between two checks of a shared lane."""


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    """A Redis that keeps what it is given when it is killed."""
    with redis_server(durable=True) as server:
        yield server


@pytest.fixture
def team(tmp_path: Path, postgres_database: str, durable_redis: RedisServer) -> Iterator[Deployment]:
    """A Postgres and a Redis, no process yet."""
    settings = {
        "ONLOOKER_QUEUE_ENGINE": "bullmq",
        "ONLOOKER_REDIS_URL": durable_redis.url,
        "ONLOOKER_SCRIPTED_DELAY_MS": "10",
        "ONLOOKER_MAX_ATTEMPTS": "100",
    }
    with deployment(tmp_path, postgres_database, **settings) as it:
        yield it


@pytest.mark.timeout(400)
def test_a_redis_that_loses_everything_among_five_thousand_jobs_is_filled_again(
    team: Deployment, durable_redis: RedisServer
) -> None:
    each = 100
    team.serve("--no-worker")
    with redis.Redis.from_url(durable_redis.url) as admin:
        team.post_sessions(SESSIONS, each)
        assert team.unfinished_messages() == SESSIONS * each
        admin.flushall()
        team.work()
        team.work()
        for count in (100, 300, 1_000):
            team.wait_until_completed(count)
            admin.flushall()
    team.wait_until_settled(300)
    team.assert_each_observed_once_in_order(SESSIONS, each)
    team.wait_for_no_messages()


@pytest.mark.timeout(300)
def test_workers_and_servers_that_are_killed_lose_and_double_nothing(team: Deployment) -> None:
    sessions, each = 10, 20
    server, workers = team.serve("--no-worker"), [team.work(), team.work()]
    with ThreadPoolExecutor(1) as client:
        events = [team.event(session, number) for number in range(each) for session in range(sessions)]
        sending = client.submit(post_in_portions, team, events)
        for number in range(4):
            team.wait_until_completed(20 * number + 20)
            kill(workers.pop(0))
            workers.append(team.work())
            if number % 2:
                kill(server)
                server = team.serve("--no-worker")
        sending.result()
    team.wait_until_settled(100)
    team.assert_each_observed_once_in_order(sessions, each)
    team.wait_for_no_messages()


def post_in_portions(team: Deployment, events: Sequence[dict[str, Any]]) -> None:
    for at in range(0, len(events), 20):
        team.post_until_acknowledged(events[at : at + 20])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["killed", "frozen"])
def test_a_redis_that_goes_and_comes_back_under_load_stops_nobody_for_long(
    team: Deployment, durable_redis: RedisServer, trouble: str
) -> None:
    sessions, each = 10, 30
    server, workers = team.serve("--no-worker"), [team.work(), team.work()]
    for worker in workers:
        # One that does not find Redis when it starts ends after a while, as it should.
        team.wait_until_begun(server, worker)
    team.post_sessions(sessions, each)
    team.wait_until_completed(20)
    if trouble == "killed":
        durable_redis.kill()
        time.sleep(2)
        durable_redis.start()
    else:
        # Longer than every timeout of a call.
        durable_redis.pause()
        time.sleep(12)
        durable_redis.resume()
    team.wait_until_completed(min(team.completed() + 20, sessions * each))
    team.wait_until_settled(100)
    team.assert_each_observed_once_in_order(sessions, each)
    assert [process.poll() for process in (server, *workers)] == [None] * 3
    team.wait_for_no_messages()
    assert_told(team, *QUEUE_AWAY, processes=len(workers))


def test_a_process_without_work_asks_redis_five_times_a_second_at_most(
    team: Deployment, durable_redis: RedisServer
) -> None:
    """Whatever is in a script counts too. Each of the shared lanes is looked at once in the time."""
    team.serve()
    team.post_sessions(SESSIONS, 2)
    team.wait_until_settled()
    team.wait_for_no_messages()
    with redis.Redis.from_url(durable_redis.url) as admin:

        def commands() -> int:
            told: int = admin.info("stats")["total_commands_processed"]
            return told

        time.sleep(3)  # what the last jobs left to do is done
        before = commands()
        time.sleep(IDLE_S)  # it is the cost of doing nothing
        assert commands() - before <= 5 * IDLE_S
        ours = [client for client in admin.client_list() if client["name"] == "onlooker"]
        assert len(ours) <= 3


def test_a_server_ends_in_order_while_redis_is_away(team: Deployment, durable_redis: RedisServer) -> None:
    server = team.serve()
    team.post([team.event(0, 0)])
    team.wait_until_settled()
    durable_redis.pause()
    began = time.monotonic()
    server.terminate()
    assert server.wait(60) == 0, team.log()
    assert time.monotonic() - began < 15
    assert "Traceback" not in team.log()
    durable_redis.resume()
