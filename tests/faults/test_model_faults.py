"""Server, worker and a model's API as processes: what becomes of jobs when the model or the worker goes away."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select

from deployment import Deployment, deployment, kill
from model_server import ModelServer, model_server
from model_wires import Asked, Say, observe
from onlooker.domain.jobs import JobStatus
from onlooker.storage.tables import agent_events, usage_daily
from onlooker.storage.tables import observation_generation_jobs as jobs

MARK = re.compile(r"MARK-\d+-\d+")
SESSIONS, EACH = 6, 12
KILLS = 6


@contextmanager
def deployed(folder: Path, database_url: str | None, model: ModelServer, **settings: str) -> Iterator[Deployment]:
    """A server and a worker that ask this model."""
    given = {"ONLOOKER_PROVIDER": "openai", "ONLOOKER_OPENAI_BASE_URL": model.base_url("openai"), **settings}
    with deployment(folder, database_url, **given) as it:
        yield it


def held(it: Deployment) -> dict[str, int]:
    """How many jobs are held for each reason."""
    counted = select(jobs.c.held_reason, func.count()).where(jobs.c.held_reason.is_not(None)).group_by("held_reason")
    return {row[0]: row[1] for row in it.read(lambda conn: conn.execute(counted).all())}


def most_attempts(it: Deployment) -> int:
    return it.read(lambda conn: int(conn.execute(select(func.max(jobs.c.attempts))).scalar_one()))


def mark_of(asked: Asked) -> str:
    """The mark of the last event that a call is about."""
    return str(MARK.findall(asked.prompt)[-1])


def completed_marks(it: Deployment) -> set[str]:
    done = select(agent_events.c.source_event_id).join(jobs, jobs.c.source_id == agent_events.c.id)
    return set(it.read(lambda conn: conn.execute(done.where(jobs.c.status == JobStatus.COMPLETED)).scalars().all()))


def wait_for_worker(it: Deployment) -> None:
    it.wait_until_begun(it.serve("--no-worker"), it.work())


def test_a_sessions_waiting_events_are_observed_in_few_calls(tmp_path: Path, database_url: str | None) -> None:
    with model_server() as model, deployed(tmp_path, database_url, model) as it:
        wait_for_worker(it)
        it.post_sessions(SESSIONS, EACH)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(SESSIONS, EACH, in_runs=True)
        assert len(model.asked) <= 2 * SESSIONS
        assert sum(len(asked.events) for asked in model.asked) == SESSIONS * EACH
        told = it.cli.run("usage", "--json").json()
        assert told["total"]["calls"] == len(model.asked)
        assert told["total"]["inputTokens"] > 0


def test_a_model_that_is_down_spends_no_attempt_and_is_caught_up_with_soon_after_its_return(
    tmp_path: Path, database_url: str | None
) -> None:
    with model_server() as model, deployed(tmp_path, database_url, model) as it:
        model.down = "status"
        wait_for_worker(it)
        it.post_sessions(SESSIONS, EACH)
        with it.client() as client:
            it.wait_until(lambda: client.get("/api/health").json()["provider"]["status"] == "held", 30)
            assert client.get("/api/health").json()["worker"]["held"]
        down_until = time.monotonic() + 5
        it.wait_until(lambda: time.monotonic() > down_until, 10)
        assert most_attempts(it) <= 1, "an attempt is only spent while its call runs"
        refused = model.refused
        model.down = ""
        it.wait_until_settled(20)
        it.assert_each_observed_once_in_order(SESSIONS, EACH, in_runs=True)
        assert refused <= 30, "a model that is down is not asked again and again"
        assert most_attempts(it) == 1
        assert it.statuses() == {JobStatus.COMPLETED: SESSIONS * EACH}


def test_jobs_without_a_quota_are_held_until_an_operator_resumes_them(tmp_path: Path, database_url: str | None) -> None:
    with model_server() as model, deployed(tmp_path, database_url, model) as it:
        no_quota = Say(status=429, code="insufficient_quota")
        model.otherwise = lambda _asked: no_quota
        wait_for_worker(it)
        it.post_sessions(1, 3)
        it.wait_until(lambda: held(it), 30)
        ((reason, _),) = held(it).items()
        assert reason.startswith("Exhausted: ")
        assert len(model.asked) == 1
        model.otherwise = observe
        assert it.cli.run("jobs", "resume", "--json").json() == {"resumed": 1}
        it.wait_until_settled(20)
        it.assert_each_observed_once_in_order(1, 3, in_runs=True)


def test_a_worker_killed_in_mid_call_observes_every_event_exactly_once(
    tmp_path: Path, database_url: str | None
) -> None:
    settings = {"ONLOOKER_GENERATION_POLICY": "per-event", "ONLOOKER_MAX_ATTEMPTS": "100"}
    with model_server() as model, deployed(tmp_path, database_url, model, **settings) as it:
        model.delay_s = 0.1
        it.serve("--no-worker")
        it.post_sessions(SESSIONS, EACH)
        cut_off: Counter[str] = Counter()
        for _ in range(KILLS):
            worker, before = it.work(), len(model.asked)
            it.wait_until(lambda: model.running and len(model.asked) > before + 1, 30)  # noqa: B023 - awaited here
            kill(worker)
            stored = completed_marks(it)
            cut_off.update(mark for mark in map(mark_of, model.asked[before:]) if mark not in stored)
        it.work()
        it.wait_until_settled(90)
        it.assert_each_observed_once_in_order(SESSIONS, EACH)
        asked = Counter(map(mark_of, model.asked))
        assert len(asked) == SESSIONS * EACH
        again = Counter({mark: count - 1 for mark, count in asked.items() if count > 1})
        assert again
        assert again == cut_off, "calls were made twice whose answers were stored, or not made again that were cut off"


def test_a_daily_cap_holds_what_would_cost_more(tmp_path: Path, database_url: str | None) -> None:
    with model_server() as model, deployed(tmp_path, database_url, model, ONLOOKER_PROJECT_DAILY_TOKENS="1000") as it:
        wait_for_worker(it)
        it.post_sessions(4, 2)
        it.wait_until(lambda: sum(held(it).values()) >= 2, 30)
        assert set(held(it)) == {"the project's daily cap of 1,000 tokens is reached"}
        used = select(func.sum(usage_daily.c.calls))
        assert it.read(lambda conn: int(conn.execute(used).scalar_one())) == len(model.asked) <= 2
        with it.client() as client:
            (cap,) = client.get("/v1/usage", params={"projectId": it.project}).json()["caps"]
        assert (cap["period"], cap["unit"], cap["amount"], cap["reached"]) == ("day", "tokens", 1000, True)
        raised = it.cli.run("usage", "cap", "--project", "faults", "--daily-tokens", "0", "--json").json()
        assert raised["resumed"] >= 2
        it.wait_until_settled(20)
        it.assert_each_observed_once_in_order(4, 2, in_runs=True)
