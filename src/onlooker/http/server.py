"""The HTTP server: uvicorn, with an end to every wait for a client.

Uvicorn ends only connections that idle between two requests. Here each connection looks after itself once in a while:
one that sends its head or its body too slowly, or takes its answer too slowly, is cut off; so is one too many, and one
whose head is too large. A request whose client has gone is cancelled.
"""

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httptools
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from onlooker.domain.errors import InvalidInput, Misconfigured, Unavailable
from onlooker.http.answer import Answer, Problem, answer_json, answer_problem
from onlooker.telemetry import log, place_of

BACKLOG = 2048
SPARE_FILES = 128
"""File descriptors that are kept for the database and for logs."""

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, and how much it may send before anybody has asked for its key."""

    head_within_s: float = 10
    body_within_s: float = 20
    """For the whole request, its head included: 1 MiB at half a megabit a second."""
    taken_within_s: float = 20
    """For an answer that the client does not read."""
    idle_s: int = 15
    """Between two requests of one connection."""
    look_every_s: float = 1
    head_bytes: int = 32_768
    headers: int = 100
    connections: int = 8_192
    drain_s: int = 35
    """For what was accepted before the stop; a request that waits for its job gets 30 s."""


class ServerConfig(Config):
    """Uvicorn's configuration with our limits."""

    def __init__(self, app: Callable[..., Any], limits: Limits) -> None:
        super().__init__(
            app,
            http=LimitedProtocol,
            lifespan="off",
            ws="none",
            log_config=None,
            # A line for each thing that is not HTTP would let a stranger fill the log.
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=limits.idle_s,
            timeout_graceful_shutdown=limits.drain_s,
        )
        self.limits = limits


def server_config(app: Callable[..., Any], limits: Limits | None = None) -> ServerConfig:
    """What `uvicorn.Server` serves the application by, and as many open files allowed as that needs."""
    limits = limits or Limits()
    return ServerConfig(app, replace(limits, connections=allow_connections(limits.connections)))


def allow_connections(wanted: int) -> int:
    """Raise what this process may open as far as it may itself; how many of the wanted connections then fit."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Nothing here is done for each request but to note when its head and its end came."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not isinstance(config, ServerConfig):
            raise Misconfigured(["this protocol needs a ServerConfig"])
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        self.receiving_since: float | None = None
        self.head_complete = False
        self.head_bytes = 0
        self.writing_since: float | None = None
        self.closing_since: float | None = None
        self.refusal: Answer | None = None
        self.work: asyncio.Task[None] | None = None
        self.look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Look at the connection from now on, or close it where there are too many."""
        super().connection_made(transport)
        self.receiving_since = self.loop.time()
        self.look_again = self.loop.call_later(self.limits.look_every_s, self._look)
        if len(self.connections) > self.limits.connections:
            self._refuse(answer_problem(Unavailable("too many connections")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request that nobody waits for any more."""
        super().connection_lost(exc)
        if self.look_again is not None:
            self.look_again.cancel()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self.work is not None and not self.work.done():
            self.work.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse a head that has no end."""
        if self.refusal is not None:
            return
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()
            self.head_complete = False
            self.head_bytes = 0
        if not self.head_complete and (b"pgrade:" in data or b"PGRADE:" in data):
            data = _without_upgrade(data)
        super().data_received(data)
        if not self.head_complete and self.receiving_since is not None:
            self.head_bytes += len(data)
            if self.head_bytes > self.limits.head_bytes:
                self._refuse(self._too_large_a_head())

    def on_message_begin(self) -> None:
        """Another request begins, maybe in the data that the last one ended in."""
        super().on_message_begin()
        self.head_complete = False
        self.head_bytes = 0
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large, else start the work. What is raised here ends the parsing."""
        self.head_complete = True
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if len(self.headers) > self.limits.headers or size > self.limits.head_bytes:
            self.refusal = self._too_large_a_head()
            raise httptools.HttpParserError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here."""
        self.receiving_since = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say in our shape why this cannot be read."""
        self._refuse(self.refusal or answer_problem(InvalidInput("this is not HTTP")))

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self.writing_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self.writing_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Callable[..., Any]) -> None:
        task = self.loop.create_task(_run(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self.work = task

    def _look(self) -> None:
        """Cut the connection off where the client took too long for something."""
        now, limits = self.loop.time(), self.limits
        if self.transport.is_closing() and self.closing_since is None:
            self.closing_since = now
        receiving_within_s = limits.body_within_s if self.head_complete else limits.head_within_s
        if (
            _is_over(self.writing_since, limits.taken_within_s, now)
            or _is_over(self.closing_since, limits.taken_within_s, now)
            or _is_over(self.receiving_since, receiving_within_s, now)
        ):
            self.transport.abort()
            return
        self.look_again = self.loop.call_later(limits.look_every_s, self._look)

    def _too_large_a_head(self) -> Answer:
        limits = self.limits
        problem = f"a request's head may have {limits.headers} headers and {limits.head_bytes} bytes"
        return answer_json(Problem("TooLarge", problem), 431)

    def _refuse(self, answer: Answer) -> None:
        """Answer without reading any further, and close."""
        self.refusal = answer
        if self.transport.is_closing():
            return
        lines = [
            STATUS_LINE[answer.status],
            b"content-type: " + answer.content_type + b"\r\n",
            b"content-length: %d\r\n" % len(answer.body),
            *(b"%s: %s\r\n" % header for header in answer.headers),
            b"connection: close\r\n\r\n",
            answer.body,
        ]
        self.transport.write(b"".join(lines))
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """A request's head, and what follows it, in which no other protocol is offered.

    The parser leaves the body to whoever takes such an offer (HTTP/2, from some clients with every POST); nobody
    does here, and a server is free to ignore it.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + data[len(head) :]


def _is_over(since: float | None, within_s: float, now: float) -> bool:
    return since is not None and now - since > within_s


async def _run(cycle: RequestResponseCycle, app: Callable[..., Any]) -> None:
    """Run the application for one request. It answers every error itself; what is left is cancellation."""
    try:
        await app(cycle.scope, cycle.receive, cycle.send)
        if not cycle.response_complete and not cycle.disconnected:
            cycle.transport.close()
    except asyncio.CancelledError:
        # By the client that has gone, or by the end of the time that a stop leaves.
        cycle.transport.abort()
    except Exception as error:  # noqa: BLE001 - an answer could not be sent: the log says where, the client sees an end
        log.error("no answer", error=type(error).__name__, where=place_of(error))
        cycle.transport.abort()
    finally:
        cycle.on_response = _nothing


def _nothing() -> None:
    """In place of the connection, which the cycle would else keep alive."""
