"""A model that goes away and comes back, with server, worker and model as processes and threads of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from deployment import Deployment, deployment
from model_server import ModelServer, model_server
from onlooker.storage.tables import observation_generation_jobs

SESSIONS, EACH = 30, 4
DONE_WITHIN_S = 60
"""Of a machine that does other things too; what is held exactly is that no call comes too many at a time."""


@contextmanager
def rig(folder: Path, **settings: str) -> Iterator[tuple[Deployment, ModelServer]]:
    with model_server() as model:
        asks = {
            "ONLOOKER_PROVIDER": "openai",
            "ONLOOKER_OPENAI_BASE_URL": model.base_url("openai"),
            "ONLOOKER_OPENAI_CONCURRENCY": "16",
            "ONLOOKER_GENERATION_DEBOUNCE_S": "0",
        }
        with deployment(folder, **{**asks, **settings}) as it:
            yield it, model


def totals(it: Deployment) -> tuple[int, int]:
    """The jobs' own failures, and the most attempts that one took."""
    jobs = observation_generation_jobs.c
    told = select(func.sum(jobs.failures), func.max(jobs.attempts))
    row = it.read(lambda conn: conn.execute(told).one())
    return int(row[0]), int(row[1])


def health(it: Deployment) -> dict[str, Any]:
    with it.client() as client:
        told: dict[str, Any] = client.get("/api/health").json()["provider"]
        return told


def how_it_is(it: Deployment) -> tuple[str, str]:
    """The provider's state, and that of its first lane."""
    told = health(it)
    return told["status"], told["lanes"][0]["status"]


def test_an_outage_costs_no_attempt_and_its_end_no_stampede(tmp_path: Path) -> None:
    with rig(tmp_path) as (it, model):
        model.delay_s = 0.02
        model.down = "reset"
        server = it.serve("--no-worker")
        it.wait_until_begun(server, it.work())
        it.post_sessions(SESSIONS, EACH)
        it.wait_until(lambda: model.refused >= 6, DONE_WITHIN_S)
        # The worker tells of it a moment after its calls were refused.
        it.wait_until(lambda: how_it_is(it) == ("held", "down"), DONE_WITHIN_S)
        assert model.refused <= 40
        model.down = ""
        it.wait_until_settled(DONE_WITHIN_S)
        assert it.statuses() == {"completed": SESSIONS * EACH}
        assert totals(it) == (0, 1)
        it.wait_until(lambda: health(it)["status"] == "ok", DONE_WITHIN_S)
        assert model.at_once[:2] == [1, 1]
        assert all(later <= earlier + 2 for earlier, later in zip(model.at_once, model.at_once[1:], strict=False))


def test_a_rate_limit_of_one_worker_pauses_the_other(tmp_path: Path) -> None:
    with rig(tmp_path, ONLOOKER_OPENAI_CONCURRENCY="2") as (it, model):
        model.requests_a_second = 4
        server = it.serve("--no-worker")
        for worker in (it.work(), it.work()):
            it.wait_until_begun(server, worker)
        it.post_sessions(12, 2)
        it.wait_until_settled(DONE_WITHIN_S)
        assert it.statuses() == {"completed": 24}
        assert totals(it) == (0, 1)
        assert model.refused <= 2 * len(model.asked)


def test_a_bad_key_holds_jobs_until_somebody_acts(tmp_path: Path) -> None:
    with rig(tmp_path, ONLOOKER_OPENAI_API_KEY="wrong") as (it, model):
        model.key = "right"
        it.wait_until_begun(it.serve("--no-worker"), it.work())
        it.post_sessions(3, 1)
        it.wait_until(lambda: health(it)["lanes"][0]["status"] == "bad-settings", DONE_WITHIN_S)
        told = it.cli.run("doctor")
        assert "401 invalid_api_key" in told.out
        assert "wrong" not in told.out
        assert it.statuses() == {"queued": 3}
        model.key = None
        it.cli.succeed("jobs", "resume")
        it.wait_until_settled(DONE_WITHIN_S)
        assert it.statuses() == {"completed": 3}
        assert totals(it)[0] == 0
