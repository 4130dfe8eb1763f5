"""How the server is: alive, ready, and in which state each part is. No key is asked for, nothing private is told."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from onlooker import __version__
from onlooker.domain.errors import OnlookerError, StorageUnavailable
from onlooker.domain.jobs import KIND_LANES
from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.http.operation import Call, Operation, Reply, Services
from onlooker.queue.contract import KindDepth, QueueDepth, QueueHealth
from onlooker.services.lanes import chosen_lanes
from onlooker.storage import heads, jobs, schema, workers
from onlooker.storage.database import Connection


class HealthzView(Struct):
    """The process is alive."""

    status: Literal["ok"] = "ok"
    runtime: str = "server-beta"


class ReadinessView(Struct):
    """Whether requests can be served."""

    status: Literal["ready", "unavailable"]
    problems: list[str]


ANSWER_WITHIN_S = 1.8
"""Health answers within 2 s in an outage."""

SEEN_WITHIN_MS = 60_000
RUNTIME = "server-beta"
NOTHING_WAITS = dict.fromkeys(KIND_LANES.values(), KindDepth())
"""Every kind is told, also one that has no message."""
REDIS_ENGINE = "bullmq"

T = TypeVar("T")

Told = dict[str, Any]
"""What is told of a part, as JSON; `error` is there where it cannot be used."""


async def healthz(_call: Call) -> Reply:
    """Say that the process lives."""
    return Reply(HealthzView())


async def readiness(call: Call) -> Reply:
    """Say whether requests can be served: the schema is there, database and queue can be reached."""
    database, queue = await asyncio.gather(look_at_database(call.services), _queue_problem(call.services))
    problems = [problem for problem in (database.get("error"), queue) if problem]
    return Reply(ReadinessView("unavailable" if problems else "ready", problems), 503 if problems else 200)


async def health(call: Call) -> Reply:
    """Say how each part is."""
    services = call.services
    database, queue = await asyncio.gather(look_at_database(services), look_at_queue(services))
    broken = "error" in database or queue["status"] != "ok"
    worker = database.pop("worker", {"status": "unknown"})
    oldest = database.pop("oldestQueuedMs", None)
    lanes = database.pop("lanes", [])
    return Reply(
        {
            "status": "degraded" if broken else "ok",
            "runtime": RUNTIME,
            "queue": {**queue, "oldestQueuedMs": oldest},
            "database": database,
            "worker": worker,
            "provider": provider_view(services.settings.provider, lanes),
        },
        503 if broken else 200,
    )


async def info(call: Call) -> Reply:
    """Say what this server is made of."""
    services = call.services
    database = await look_at_database(services)
    active = {"status": "active", "reason": "running in this deployment"}
    workers_seen = database.get("worker", {}).get("count", 0)
    provider = provider_view(services.settings.provider, database.get("lanes", []))
    closed = [lane for lane in provider["lanes"] if lane["status"] != LaneCondition.OPEN]
    registry = {**active, "details": {"provider": provider["name"], "lanes": provider["lanes"]}}
    if closed and len(closed) == len(provider["lanes"]):
        registry |= {"status": "errored", "reason": closed[0]["reason"]}
    generation = (
        {**active, "details": {"workers": workers_seen}}
        if workers_seen
        else {"status": "disabled", "reason": "no worker was seen in the last minute"}
    )
    return Reply(
        {
            "name": "onlooker",
            "version": __version__,
            "runtime": RUNTIME,
            "authMode": str(services.settings.auth_mode),
            "postgres": {
                "initialized": "error" not in database,
                "schemaVersion": database.get("schemaVersion"),
                "engine": services.database.name,
            },
            "boundaries": {
                "queueManager": {**active, "details": {"engine": services.queue.name, "lanes": _lanes()}},
                "generationWorkerManager": generation,
                "providerRegistry": registry,
                "eventBroadcaster": {"status": "disabled", "reason": "no live readers in this version"},
            },
        }
    )


def provider_view(chosen: str, lanes: Sequence[LaneState]) -> dict[str, Any]:
    """The chosen provider or chain: which models it asks, and of each whether it is called, and why not."""
    closed = [lane for lane in lanes if lane.condition is not LaneCondition.OPEN]
    return {
        "name": chosen,
        "status": "ok" if not closed else "held" if len(closed) == len(lanes) else "degraded",
        "lanes": [
            {
                "provider": lane.provider,
                "model": lane.model,
                "status": str(lane.condition),
                "until": lane.until,
                "reason": lane.reason,
            }
            for lane in lanes
        ],
    }


def _lanes() -> dict[str, str]:
    return {str(kind): name for kind, name in KIND_LANES.items()}


async def look_at_database(services: Services) -> Told:
    """How the database is, who works, and how long the oldest job has waited."""

    def look(conn: Connection) -> dict[str, Any]:
        seen = workers.seen_within(conn, SEEN_WITHIN_MS)
        return {
            "schemaVersion": schema.installed_version(conn),
            "oldestQueuedMs": heads.oldest_queued_ms(conn),
            "worker": {"status": "ok" if seen else "none", "count": len(seen), **_held(conn)},
            "lanes": chosen_lanes(conn, services.settings),
        }

    known = {"engine": services.database.name, "host": _hosts_of(services.database.url)}
    try:
        return {"status": "ok", **known, **await _in_time(services.database.read(look))}
    except (TimeoutError, StorageUnavailable) as error:
        return {"status": "error", **known, "error": f"database: {_reason(error)}"}


def _hosts_of(url: str) -> str | None:
    """Where the database is; several hosts stand in an option of the URL."""
    parts = urlsplit(url)
    return parts.hostname or next(iter(parse_qs(parts.query).get("host", [])), None)


def _held(conn: Connection) -> dict[str, Any]:
    """Why jobs are held; nothing where none is."""
    reasons = jobs.held_by_reason(conn)
    return {"held": [{"reason": reason, "jobs": count} for reason, count in reasons]} if reasons else {}


async def look_at_queue(services: Services) -> Told:
    """How the queue is and how much is in it, in the shape that clients know."""
    (found, problem), depth = await asyncio.gather(_queue_health(services), _depth(services))
    if isinstance(depth, str):
        problem = problem or depth
    redis: dict[str, Any] = {"status": "ok", "mode": "disabled", "host": None, "port": None, "prefix": None}
    if found.engine == REDIS_ENGINE:
        redis = {**found.details, **({"status": "error", "error": problem} if problem else {"status": "ok"})}
    parts: dict[str, Any] = {"engine": found.engine, "redis": redis}
    if problem or isinstance(depth, str):
        return {**parts, "status": "error", "error": problem}
    return {**parts, "status": "ok", "depth": depth_view(depth)}


async def _queue_problem(services: Services) -> str | None:
    """What keeps the queue from working: it may be readable and not take anything."""
    _, problem = await _queue_health(services)
    return problem


async def _queue_health(services: Services) -> tuple[QueueHealth, str | None]:
    """How the engine is, and what is wrong if anything is."""
    try:
        found = await _in_time(services.queue.health())
    except TimeoutError as error:
        return QueueHealth(ok=False, engine=services.queue.name), f"queue: {_reason(error)}"
    return found, None if found.ok else f"queue: {found.error}"


async def _depth(services: Services) -> QueueDepth | str:
    try:
        return await _in_time(services.queue.depth())
    except (TimeoutError, OnlookerError) as error:
        return f"queue: {_reason(error)}"


async def _in_time(look: Coroutine[Any, Any, T]) -> T:
    """What was looked for. Raises `TimeoutError` in time, whatever it takes to give the look up."""
    looking = asyncio.create_task(look)
    looking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait({looking}, timeout=ANSWER_WITHIN_S)
    finally:
        # A driver that leaves a database which does not answer takes its time, and may fail: nobody waits for that.
        looking.cancel()
    if not done:
        raise TimeoutError
    return looking.result()


def _reason(error: Exception) -> str:
    return f"no answer within {ANSWER_WITHIN_S} s" if isinstance(error, TimeoutError) else str(error)


def depth_view(depth: QueueDepth) -> dict[str, Any]:
    """How much there is to do: in all, by kind lane, and in the sessions' lanes together."""
    return {
        "pending": depth.pending,
        "lanes": depth.lanes,
        "sessions": _counts(depth.sessions),
        "kinds": {name: _counts(of_kind) for name, of_kind in {**NOTHING_WAITS, **depth.kinds}.items()},
    }


def _counts(of_kind: KindDepth) -> dict[str, int]:
    return {
        "waiting": of_kind.waiting,
        "delayed": of_kind.delayed,
        "claimed": of_kind.claimed,
        "failed": of_kind.failed,
    }


OPERATIONS = (
    Operation("GET", "/healthz", "Whether the process lives", healthz, {200: HealthzView}),
    Operation(
        "GET", "/api/readiness", "Whether requests can be served", readiness,
        {200: ReadinessView, 503: ReadinessView},
    ),
    Operation(
        "GET", "/api/health", "How each part is", health, {200: dict[str, Any], 503: dict[str, Any]}
    ),
    Operation("GET", "/v1/info", "What this server is made of", info, {200: dict[str, Any]}),
)  # fmt: skip
