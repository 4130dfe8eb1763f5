"""A Postgres that is lost for good, and its standby that takes over: nothing that was acknowledged is lost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployment import deployment
from onlooker.host import now_ms
from servers import PostgresServer, ServerFailed, standby_of

CLIENTS = 4
WORKED_ON_WITHIN_S = 40


def test_a_standby_that_is_promoted_is_found_without_a_restart(tmp_path: Path, own_postgres: PostgresServer) -> None:
    try:
        with standby_of(own_postgres) as standby:
            see_a_standby_promoted(tmp_path, own_postgres, standby)
    except ServerFailed as error:
        pytest.fail(str(error), pytrace=False)


def see_a_standby_promoted(folder: Path, primary: PostgresServer, standby: PostgresServer) -> None:
    hosts = ",".join(f"{server.host}:{server.port}" for server in (primary, standby))
    url = f"postgresql://{primary.user}:{primary.password}@{hosts}/postgres?target_session_attrs=read-write"
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "10", "ONLOOKER_DATABASE_TIMEOUT_S": "4"}
    with deployment(folder, url, **settings) as it:
        processes = [it.serve("--no-worker"), it.work(), it.work()]
        enough = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as clients:
            sending = [clients.submit(it.post_and_post_again, session, enough) for session in range(CLIENTS)]
            it.wait_until_completed(20)
            primary.kill()
            time.sleep(2)  # nobody takes writes
            promoted_at = now_ms()
            standby.promote()
            it.wait_until(lambda: it.sessions_worked_on(since=promoted_at) == CLIENTS, WORKED_ON_WITHIN_S)
            enough.set()
            told = [each.result() for each in sending]
        it.wait_until_settled()
        it.assert_observed({session: count for session, (count, _) in enumerate(told)})
        assert any(refused for _, refused in told), "nobody was told of the outage"
        assert [process.poll() for process in processes] == [None] * len(processes)
        it.wait_for_no_messages()
