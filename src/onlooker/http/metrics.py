"""What a monitor reads, in Prometheus' text format: counts only, of no tenant and of nothing that was observed."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from onlooker import __version__
from onlooker.http import health
from onlooker.http.answer import Answer
from onlooker.http.auth import Guard
from onlooker.http.operation import Services
from onlooker.http.request import Request

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096

Requests = Counter[tuple[str, int]]
"""How many requests were answered, by method and status."""

Labels = Mapping[str, str | int]


class Metrics:
    """Answers `GET /metrics` to this machine, and to others that bring a key."""

    def __init__(self, services: Services, guard: Guard, requests: Requests) -> None:
        self._services = services
        self._guard = guard
        self._requests = requests
        self._started_at = time.time()

    async def answer(self, request: Request) -> Answer:
        """See the class. Raises `Unauthenticated` and `Forbidden`; a part that is away is told by a 0."""
        await self._guard.admit_monitor(request)
        database, queue = await asyncio.gather(
            health.look_at_database(self._services), health.look_at_queue(self._services)
        )
        lines = [*self._of_process(), *_of_database(database), *_of_queue(queue)]
        return Answer(200, ("\n".join(lines) + "\n").encode(), content_type=TEXT)

    def _of_process(self) -> Iterable[str]:
        yield from _metric("onlooker_info", "gauge", "What runs.", [({"version": __version__}, 1)])
        answered: list[tuple[Labels, float]] = [
            ({"method": method, "status": status}, count) for (method, status), count in sorted(self._requests.items())
        ]
        yield from _metric("onlooker_http_requests_total", "counter", "Requests that were answered.", answered)
        yield from _metric("process_cpu_seconds_total", "counter", "CPU time.", [({}, time.process_time())])
        yield from _metric("process_start_time_seconds", "gauge", "Since when it runs.", [({}, self._started_at)])
        if STATM.exists():
            resident = int(STATM.read_text().split()[1]) * PAGE_BYTES
            yield from _metric("process_resident_memory_bytes", "gauge", "Memory in use.", [({}, resident)])


def _of_database(database: health.Told) -> Iterable[str]:
    is_up = "error" not in database
    yield from _metric("onlooker_database_up", "gauge", "Whether the database answers.", [({}, int(is_up))])
    if is_up:
        oldest_s = (database["oldestQueuedMs"] or 0) / 1000
        meaning = "Age of the oldest job that waits; 0 where none does."
        yield from _metric("onlooker_oldest_queued_seconds", "gauge", meaning, [({}, oldest_s)])
        seen = database["worker"]["count"]
        yield from _metric("onlooker_workers", "gauge", "Worker processes seen in the last minute.", [({}, seen)])


def _of_queue(queue: health.Told) -> Iterable[str]:
    yield from _metric("onlooker_queue_up", "gauge", "Whether the queue works.", [({}, int(queue["status"] == "ok"))])
    if "depth" in queue:
        lanes = {"sessions": queue["depth"]["sessions"], **queue["depth"]["kinds"]}
        counts = [({"lane": lane, "state": state}, n) for lane, states in lanes.items() for state, n in states.items()]
        yield from _metric("onlooker_queue_messages", "gauge", "Messages of the queue, by lane and state.", counts)


def _metric(name: str, kind: str, meaning: str, values: Iterable[tuple[Labels, float]]) -> Iterable[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        told = ",".join(f'{label}="{text}"' for label, text in labels.items())
        yield f"{name}{{{told}}} {value}" if told else f"{name} {value}"
