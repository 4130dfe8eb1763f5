"""Two machines on one Postgres, one of them behind a PgBouncer: each knows what the other did."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from deployment import Deployment, deployment, kill
from onlooker.storage.taking import KEY_REVOKED
from pgbouncer import pgbouncer
from servers import PostgresServer, ServerFailed, ServerMissing

REFUSED_WITHIN_S = 5.0
SESSIONS, EACH = 6, 5


class Machines(NamedTuple):
    """`near` reaches Postgres itself, `far` by a pooler: alone, or with a way past it."""

    near: Deployment
    far: Deployment
    postgres: PostgresServer


@pytest.fixture(params=["pooler only", "pooler and direct"])
def pooled_settings(request: pytest.FixtureRequest, own_postgres: PostgresServer) -> dict[str, str]:
    return {"ONLOOKER_DATABASE_DIRECT_URL": own_postgres.url} if request.param == "pooler and direct" else {}


@pytest.fixture
def machines(tmp_path: Path, own_postgres: PostgresServer, pooled_settings: dict[str, str]) -> Iterator[Machines]:
    try:
        with (
            pgbouncer(own_postgres.url) as bouncer,
            deployment(tmp_path / "near", own_postgres.url, ONLOOKER_DATABASE_TIMEOUT_S="2") as near,
            deployment(tmp_path / "far", bouncer.url, ONLOOKER_DATABASE_TIMEOUT_S="2", **pooled_settings) as far,
        ):
            yield Machines(near, far, own_postgres)
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


def status(machine: Deployment) -> tuple[int, dict[str, Any]]:
    """The exit code of `server status`, and the health that it tells."""
    ended = machine.cli.run("server", "status", "--json")
    return ended.code, json.loads(ended.out)["health"]


def test_what_one_takes_the_other_works_on_in_order(machines: Machines) -> None:
    near, far, _ = machines
    for machine in (near, far):
        machine.serve("--no-worker")
        machine.work()
    near.post_sessions(SESSIONS, EACH)
    with far.client() as client:
        waited = client.post("/v1/events", params={"wait": "true"}, json=far.event(SESSIONS, 0)).raise_for_status()
    assert waited.json()["generationJob"]["status"] == "completed"
    near.wait_until_settled()
    near.assert_observed({**dict.fromkeys(range(SESSIONS), EACH), SESSIONS: 1})
    near.wait_for_no_messages()


@pytest.mark.parametrize("pooled_settings", [{}], ids=["pooler only"])
def test_a_revoked_key_is_refused_everywhere_and_its_jobs_are_cancelled(machines: Machines) -> None:
    see_a_key_revoked(machines.near, machines.far)


def test_so_it_is_where_the_queue_is_in_redis(tmp_path: Path, postgres_database: str, redis_database: str) -> None:
    queue = {"ONLOOKER_QUEUE_ENGINE": "bullmq", "ONLOOKER_REDIS_URL": redis_database}
    with (
        deployment(tmp_path / "near", postgres_database, **queue) as near,
        deployment(tmp_path / "far", postgres_database, **queue) as far,
    ):
        see_a_key_revoked(near, far)
        near.wait_for_no_messages()


def see_a_key_revoked(near: Deployment, far: Deployment) -> None:
    """Each machine has a server; `near` revokes a key, and `far` has the only worker, which begins after that."""
    for machine in (near, far):
        machine.serve("--no-worker")
    made = near.cli.run("keys", "create", "--scope", "write", "--name", "leaver", "--json").json()
    leaver = {"authorization": f"Bearer {made['key']}"}
    sent = [
        httpx.post(f"{each.url}/v1/events", json=each.event(0, 0), headers=leaver, timeout=30) for each in (near, far)
    ]
    assert [answer.status_code for answer in sent] == [201, 201]
    job = sent[0].json()["generationJob"]["id"]
    near.cli.succeed("keys", "revoke", made["id"])
    revoked_at = time.monotonic()

    def is_refused_everywhere() -> bool:
        asked = [
            httpx.post(f"{each.url}/v1/events", json=each.event(0, 0), headers=leaver, timeout=30)
            for each in (near, far)
        ]
        return all(answer.status_code == 403 for answer in asked)

    near.wait_until(is_refused_everywhere, 2 * REFUSED_WITHIN_S)
    assert time.monotonic() - revoked_at < REFUSED_WITHIN_S
    near.post([near.event(1, 0)])
    far.work()
    near.wait_until_settled()
    assert near.statuses() == {"cancelled": 1, "completed": 1}
    with near.client() as client:
        told = client.get(f"/v1/jobs/{job}").raise_for_status().json()
    assert KEY_REVOKED in str(told)


@pytest.mark.parametrize("pooled_settings", [{}], ids=["pooler only"])
def test_status_tells_the_truth_of_database_queue_and_workers(machines: Machines) -> None:
    near, far, postgres = machines
    near.serve("--no-worker")
    near.post([{**near.event(0, number), "contentSessionId": None} for number in range(2)])
    near.post([near.event(1, 0)])
    code, told = status(near)
    assert code == 0
    assert told["worker"]["count"] == 0
    assert told["queue"]["depth"]["sessions"]["waiting"] == 1
    assert told["queue"]["depth"]["kinds"]["server_beta_generate_event_batch"]["waiting"] == 1
    assert told["queue"]["depth"]["kinds"]["server_beta_generate_summary"]["waiting"] == 0
    assert told["queue"]["oldestQueuedMs"] > 0
    worker: subprocess.Popen[bytes] = far.work()
    near.wait_until_settled()
    near.wait_for_no_messages()
    code, told = status(near)
    assert (told["worker"]["count"], told["queue"]["depth"]["pending"]) == (1, 0)
    assert told["queue"]["oldestQueuedMs"] is None
    kill(worker)
    postgres.kill()
    code, told = status(near)
    assert (code, told["status"]) == (1, "degraded")
    assert told["database"]["error"].startswith("database: ")
    said = near.cli.run("server", "status").out
    assert "  database: the database cannot be reached" in said
    assert "  queue: " in said
