"""Processes that die, freeze or lie about the time: nothing is lost, nothing doubled, every session in its order."""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from databases import KINDS
from deployment import Deployment, deployment, kill

KILLS = 20
JUMPS = {
    "ahead": "real = time.time_ns; time.time_ns = lambda: real() + 600 * 10**9",
    "behind": "real = time.time_ns; time.time_ns = lambda: real() - 600 * 10**9",
    "jumping": "real = time.time_ns; import itertools; n = itertools.count(); "
    "time.time_ns = lambda: real() + (600 if next(n) % 2 else -600) * 10**9",
}


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None is the default: SQLite in the home."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_database")
    return url


def post_sessions(it: Deployment, sessions: int, each: int) -> None:
    """Every session's events, in batches across the sessions."""
    events = [it.event(session, number) for number in range(each) for session in range(sessions)]
    for start in range(0, len(events), 250):
        assert it.post(events[start : start + 250]) == 201


def some_done(it: Deployment, at_least: int) -> None:
    give_up_at = time.monotonic() + 30
    while it.statuses().get("completed", 0) < at_least:
        assert time.monotonic() < give_up_at, it.log()
        time.sleep(0.05)


def test_a_server_that_is_killed_goes_on_within_five_seconds_of_its_start(
    tmp_path: Path, database_url: str | None
) -> None:
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="20") as it:
        server = it.serve()
        post_sessions(it, 10, 50)
        some_done(it, 100)
        kill(server)
        before = it.statuses().get("completed", 0)
        assert before < 500
        began = time.monotonic()
        it.serve()
        some_done(it, before + 1)
        assert time.monotonic() - began < 5
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(10, 50)
        assert it.statuses() == {"completed": 500}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_of_their_own_do_the_same_on_one_database(
    tmp_path: Path, database_url: str | None, workers: int
) -> None:
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="5") as it:
        it.serve("--no-worker")
        for _ in range(workers):
            it.spawn("worker", "run")
        post_sessions(it, 20, 20)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(20, 20)
        wait_for_no_messages(it)


def wait_for_no_messages(it: Deployment) -> None:
    give_up_at = time.monotonic() + 20
    while left := it.unfinished_messages():
        assert time.monotonic() < give_up_at, f"{left} messages left: {it.log()}"
        time.sleep(0.1)


def test_twenty_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    (tmp_path / f"seed-{seed}").touch()  # so that a failure can be repeated
    chance = random.Random(seed)  # noqa: S311 - a run that can be repeated, not a secret
    sessions, each = 40, 50
    with deployment(tmp_path, ONLOOKER_SCRIPTED_DELAY_MS="5") as it:
        server, worker = it.serve("--no-worker"), it.spawn("worker", "run")
        events = [it.event(session, number) for number in range(each) for session in range(sessions)]
        portions = [events[start : start + 40] for start in range(0, len(events), 40)]
        kills = sorted(chance.sample(range(len(portions)), KILLS))
        with ThreadPoolExecutor(1) as beside:
            for number, portion in enumerate(portions):
                sent = beside.submit(post_until_acknowledged, it, portion)
                if number in kills:
                    time.sleep(chance.random() * 0.1)
                    if chance.random() < 0.5:
                        kill(server)
                        server = it.serve("--no-worker")
                    else:
                        kill(worker)
                        worker = it.spawn("worker", "run")
                sent.result()
        it.wait_until_settled(90)
        it.assert_each_observed_once_in_order(sessions, each)
        assert it.stored_events() == sessions * each
        assert it.statuses() == {"completed": sessions * each}


def post_until_acknowledged(it: Deployment, portion: list[dict[str, object]]) -> None:
    """What was not acknowledged is sent again, as a client would."""
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        try:
            if it.post(portion) == 201:
                return
        except (httpx.HTTPError, OSError, ValueError):
            time.sleep(0.05)
    raise AssertionError(f"not acknowledged: {it.log()}")


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_late(tmp_path: Path, database_url: str | None) -> None:
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "30", "ONLOOKER_JOB_LEASE_S": "2"}
    with deployment(tmp_path, database_url, **settings) as it:
        it.serve("--no-worker")
        frozen = it.spawn("worker", "run")
        post_sessions(it, 5, 40)
        some_done(it, 20)
        os.kill(frozen.pid, signal.SIGSTOP)
        it.spawn("worker", "run")
        time.sleep(3)
        os.kill(frozen.pid, signal.SIGCONT)
        # The frozen one's queue claims live 90 s; its rows are free after 2 s, and reconcile rings them.
        it.wait_until_settled(100)
        it.assert_each_observed_once_in_order(5, 40)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_process_whose_clock_is_wrong_moves_no_lease(tmp_path: Path, database_url: str | None, jump: str) -> None:
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="10") as it:
        it.serve("--no-worker")
        it.spawn("worker", "run")
        it.spawn("worker", "run", patch=JUMPS[jump])
        post_sessions(it, 10, 20)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(10, 20)
        assert it.statuses() == {"completed": 200}


def test_a_thousand_sessions_at_once(tmp_path: Path, database_url: str | None) -> None:
    with deployment(tmp_path, database_url) as it:
        it.serve()
        post_sessions(it, 1000, 2)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(1000, 2)


def test_a_server_that_is_asked_to_stop_answers_what_it_accepted(tmp_path: Path) -> None:
    with deployment(tmp_path) as it:
        server = it.serve()
        acknowledged: list[int] = []

        def send(session: int) -> None:
            with it.client() as client:
                for number in range(10_000):
                    try:
                        answer = client.post("/v1/events", json=it.event(session, number))
                    except httpx.HTTPError:
                        return
                    if answer.status_code != 201:
                        return
                    acknowledged.append(1)

        with ThreadPoolExecutor(8) as clients:
            sending = [clients.submit(send, session) for session in range(8)]
            time.sleep(1)
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0, it.log()
            for each in sending:
                each.result()
        assert len(acknowledged) > 50
        assert it.stored_events() >= len(acknowledged)
        assert it.statuses().get("processing", 0) == 0


def test_a_locked_database_is_said_and_waited_out(tmp_path: Path) -> None:
    with deployment(tmp_path) as it:
        it.serve()
        path = it.cli.home / "onlooker.db"
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
            "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
        )

        locker = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert locker.stdout is not None
        assert locker.stdin is not None
        assert locker.stdout.readline() == b"locked\n"
        with it.client() as client:
            refused = client.post("/v1/events", json=it.event(0, 0))
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
        locker.communicate()
        assert it.post([it.event(0, 0)]) == 201
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(1, 1)
