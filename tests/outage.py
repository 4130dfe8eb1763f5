"""A Postgres that takes no writes for a while, under load."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from deployment import Deployment
from onlooker.host import now_ms

CLIENTS = 4
QUEUE_AWAY = ("waiting for the queue", "the queue is back")
MOST_LINES = 3
"""Of a process: one when it begins, or some more where Postgres gives a little before it gives all."""


def see_an_outage(
    it: Deployment, *, go: Callable[[], None], come_back: Callable[[], None], worked_on_within_s: float
) -> None:
    """Clients are told, no process is started again, and what was acknowledged is neither lost nor doubled."""
    processes = [it.serve("--no-worker"), it.work(), it.work()]
    enough = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as clients:
        sending = [clients.submit(it.post_and_post_again, session, enough) for session in range(CLIENTS)]
        try:
            it.wait_until_completed(20)
            go()
            time.sleep(2)  # nobody takes writes
            back_at = now_ms()
            come_back()
            # A client that has ended met what it should not: its result says it.
            it.wait_until(
                lambda: any(each.done() for each in sending) or it.sessions_worked_on(since=back_at) == CLIENTS,
                worked_on_within_s,
            )
        finally:
            enough.set()
        told = [each.result() for each in sending]
    it.wait_until_settled()
    it.assert_observed({session: count for session, (count, _) in enumerate(told)})
    assert any(refused for _, refused in told), "nobody was told of the outage"
    assert [process.poll() for process in processes] == [None] * len(processes)
    it.wait_for_no_messages()
    for told_of in (("the database takes no writes", "the database takes writes again"), QUEUE_AWAY):
        assert_told(it, *told_of, processes=len(processes))


def assert_told(it: Deployment, begun: str, over: str, *, processes: int) -> None:
    """The log says that an outage began and that it is over; who waits for work notices the end a little later."""
    it.wait_until(lambda: it.told()[over] == it.told()[begun], 15)
    assert 0 < it.told()[begun] <= MOST_LINES * processes, it.log()
