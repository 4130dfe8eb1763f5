"""A Redis that loses everything under load: the outbox refills it, for the rows are the truth."""

from pathlib import Path

import pytest
import redis

from deployment import deployment
from servers import RedisServer

SESSIONS = 100
EACH = 50


@pytest.mark.timeout(600)
def test_a_redis_that_is_emptied_in_the_middle_of_five_thousand_jobs_loses_and_doubles_nothing(
    tmp_path: Path, postgres_database: str, own_redis: RedisServer
) -> None:
    settings = {"ONLOOKER_QUEUE_ENGINE": "bullmq", "ONLOOKER_REDIS_URL": own_redis.url}
    with (
        deployment(tmp_path, postgres_database, **settings) as it,
        redis.Redis.from_url(own_redis.url) as client,
    ):
        server, *workers = it.serve("--no-worker"), it.work(), it.work()
        it.wait_until_begun(server, workers[0])
        it.post_sessions(SESSIONS, EACH)
        for completed in (500, 1_500, 2_500):
            it.wait_until(lambda completed=completed: it.completed() >= completed, 120)  # type: ignore[misc]  # the default binds it
            client.flushall()
        it.wait_until_settled(300)
        it.assert_each_observed_once_in_order(SESSIONS, EACH)
        assert [process.poll() for process in (server, *workers)] == [None, None, None]
