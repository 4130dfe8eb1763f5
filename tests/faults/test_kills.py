"""Processes that are ended without warning, or asked to end: nothing is lost, nothing doubled, all in order."""

import random
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployment import SETTLED_WITHIN_S, Deployment, deployment, kill

KILLS = 20
CLIENTS = 4
SESSIONS = 40
EACH = 50
PORTION = 8
KILLS_WITHIN_S = 60


def test_a_server_that_was_killed_works_on_within_five_seconds_of_its_start(
    tmp_path: Path, stores: dict[str, str]
) -> None:
    with deployment(tmp_path, **stores, ONLOOKER_SCRIPTED_DELAY_MS="100") as it:
        server = it.serve()
        it.post_sessions(10, 50)
        it.wait_until_completed(100)
        it.freeze(server)
        kill(server)
        # The database is not looked at before the start, which would recover SQLite's log in place of the server.
        began_at = time.time_ns() // 1_000_000
        it.serve()
        it.wait_until(lambda: it.first_completed_after(began_at), 30)
        took_ms = (it.first_completed_after(began_at) or 0) - began_at
        print(f"the first job was completed {took_ms} ms after the start")  # noqa: T201 - shown by pytest -rP
        assert took_ms < 5_000
        it.wait_until_settled()
        assert it.happened("holder-died") > 0
        it.assert_each_observed_once_in_order(10, 50)
        it.wait_for_no_messages()


@pytest.mark.timeout(300)
def test_twenty_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, database_url: str | None) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201 - so that a failure can be repeated
    chance = random.Random(seed)  # noqa: S311 - a run that can be repeated, not a secret
    kills = 0
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="150", ONLOOKER_MAX_ATTEMPTS="100") as it:
        server, worker = it.serve("--no-worker"), it.work()
        with ThreadPoolExecutor(CLIENTS) as clients:
            sending = [
                clients.submit(post_sessions_of_a_client, it, client, lambda: kills) for client in range(CLIENTS)
            ]
            for _ in range(KILLS):
                time.sleep(chance.random() * 0.3)
                killed = chance.choice(["server", "worker", "both"])
                if killed != "worker":
                    kill(server)
                    server = it.spawn("serve", "--no-worker")
                if killed != "server":
                    kill(worker)
                    worker = it.work()
                kills += 1
                # Some kills come while a process starts, most find one that is at work.
                if chance.random() < 0.6:
                    it.wait_until_begun(server, worker)
            for each in sending:
                each.result()
        it.wait_until_settled()
        assert it.happened("holder-died") > 0, "no kill came while a job was worked on"
        it.assert_each_observed_once_in_order(SESSIONS, EACH)
        it.wait_for_no_messages()


def post_sessions_of_a_client(it: Deployment, client: int, kills: Callable[[], int]) -> None:
    """Each client has sessions of its own, and sends the next events when the last ones were acknowledged.

    The events are spread over the kills, so that each finds work however fast it is done; the last come after them all.
    """
    mine = range(client, SESSIONS, CLIENTS)
    events = [it.event(session, number) for number in range(EACH) for session in mine]
    for start in range(0, len(events), PORTION):
        due = KILLS * (start + PORTION) // len(events)
        it.wait_until(partial(at_least, due, kills), KILLS_WITHIN_S)
        it.post_until_acknowledged(events[start : start + PORTION])


def at_least(due: int, counted: Callable[[], int]) -> bool:
    return counted() >= due


def test_a_server_that_is_asked_to_stop_under_load_answers_what_it_accepted_and_stores_nothing_else(
    tmp_path: Path, database_url: str | None
) -> None:
    # Slower than clients on a busy machine, so that there is a backlog.
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="200") as it:
        server = it.serve()
        with ThreadPoolExecutor(16) as clients:
            sending = [clients.submit(post_until_refused, it, session) for session in range(16)]
            it.wait_until_completed(50)
            it.wait_until(lambda: it.statuses().get("queued", 0) >= 50, SETTLED_WITHIN_S)
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0, it.log()
            acknowledged = [mark for each in sending for mark in each.result()]
        assert sorted(it.stored_events()) == sorted(acknowledged)
        assert len(acknowledged) > 100
        left = it.statuses()
        assert left.keys() == {"completed", "queued"}, "the worker drained and put back what it held"
        it.assert_one_at_a_time()
        # What was not worked on is not lost either.
        it.serve()
        it.wait_until_settled()
        it.assert_observed(count_by_session(acknowledged))


def post_until_refused(it: Deployment, session: int) -> list[str]:
    """The marks of the events that were acknowledged, until the server is gone or says that it stops."""
    acknowledged = []
    with it.client() as client:
        for number in range(10_000):
            event: dict[str, Any] = it.event(session, number)
            try:
                answer = client.post("/v1/events", json=event)
            except httpx.HTTPError:
                break
            if answer.status_code != 201:
                assert answer.status_code == 503, answer.text
                break
            acknowledged.append(str(event["sourceEventId"]))
    return acknowledged


def count_by_session(marks: Sequence[str]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for mark in marks:
        session = int(mark.split("-")[1])
        counts[session] = counts.get(session, 0) + 1
    return counts
