"""Clients of a deployment that goes through chaos: each sends its events until they are acknowledged, by any server."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from deployment import Deployment

SESSIONS = 200
CLIENTS = 8
EVENTS_PER_S = 60.0
"""Of all clients together: what the workers of a small machine can do between two faults."""

LOOSE_SHARE = 0.05
"""Of the requests: batches of events that belong to no session, each a job of its kind's lane."""

BATCH = 5
REQUEST_TIMEOUT_S = 20.0
PAUSE_S = 0.1


@dataclass(slots=True)
class Sent:
    """What was sent and acknowledged: the number of events of each session, and the marks of the loose ones."""

    sessions: Counter[int] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    loose_batches: int = 0
    refused: int = 0
    unanswered: int = 0

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(
            self.sessions + other.sessions,
            self.loose + other.loose,
            self.loose_batches + other.loose_batches,
            self.refused + other.refused,
            self.unanswered + other.unanswered,
        )

    @property
    def events(self) -> int:
        return self.sessions.total() + len(self.loose)


class Client:
    """One client with sessions of its own, which sends the next events when the last ones were acknowledged."""

    def __init__(self, it: Deployment, number: int, urls: Sequence[str], *, seed: int) -> None:
        self._it = it
        self._number = number
        self._urls = urls
        self._chance = random.Random(f"{seed} {number}")  # noqa: S311 - a run that can be repeated, not a secret
        self._sessions = range(number, SESSIONS, CLIENTS)
        self.sent = Sent()

    def send_until(self, enough: threading.Event, given_up: threading.Event) -> Sent:
        """Send until it is enough; what was begun then is sent until it is acknowledged, or all is given up."""
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    httpx.Client(base_url=url, headers=self._it.headers, timeout=REQUEST_TIMEOUT_S, trust_env=False)
                )
                for url in self._urls
            ]
            next_at = time.monotonic()
            while not enough.is_set():
                events = self._loose_events() if self._chance.random() < LOOSE_SHARE else self._events()
                self._post_until_acknowledged(servers, events, given_up)
                # After an outage a second's worth is made up for, not all of it.
                next_at = max(next_at + len(events) * CLIENTS / EVENTS_PER_S, time.monotonic() - 1)
                enough.wait(next_at - time.monotonic())
        return self.sent

    def _events(self) -> list[dict[str, Any]]:
        """The next event of one session, or of several."""
        events = []
        for _ in range(self._chance.choice([1, 1, 1, BATCH])):
            session = self._chance.choice(self._sessions)
            events.append(self._it.event(session, self.sent.sessions[session]))
            self.sent.sessions[session] += 1
        return events

    def _loose_events(self) -> list[dict[str, Any]]:
        events = []
        for _ in range(BATCH):
            event = self._it.event(SESSIONS + self._number, len(self.sent.loose))
            del event["contentSessionId"]
            self.sent.loose.append(event["sourceEventId"])
            events.append(event)
        self.sent.loose_batches += 1
        return events

    def _post_until_acknowledged(
        self, servers: Sequence[httpx.Client], events: list[dict[str, Any]], given_up: threading.Event
    ) -> None:
        """Fails at any answer but 201 and, with Retry-After, 503."""
        while not given_up.is_set():
            server = self._chance.choice(servers)
            try:
                if len(events) == 1:
                    answer = server.post("/v1/events", json=events[0])
                else:
                    answer = server.post("/v1/events/batch", json=events)
            except httpx.HTTPError:
                self.sent.unanswered += 1
            else:
                if answer.status_code == httpx.codes.CREATED:
                    return
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
                assert int(answer.headers["retry-after"]) >= 1
                self.sent.refused += 1
            time.sleep(PAUSE_S)
