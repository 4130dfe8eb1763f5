"""A server or a worker in this process: its parts open, its state files written, stopped by a signal."""

import asyncio
import dataclasses
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import click
import uvicorn

from onlooker import __version__
from onlooker.app import await_part, make_home, open_app, running
from onlooker.cli.state import Runtime, StateFiles
from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.host import ProcessIdentity, now_ms
from onlooker.http.server import BACKLOG, server_config
from onlooker.mcp_server.endpoint import build_site
from onlooker.parts import unpriced_models
from onlooker.settings import QueueChoice, Settings
from onlooker.telemetry import log, set_up_logging

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

COLLECT_AFTER = 20_000
"""New objects after which the collector looks for cycles among them, of which requests leave hardly any. Python's own
700 is one look in 40 events, and each 70th of those goes through all that the start has made."""


def serve(settings: Settings, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT; see `onlooker serve --help`. Raises `Conflict` when this home has a server."""
    set_up_logging(settings.log_level)
    make_home(settings)
    _warn_of_unbound(settings)
    _warn_of_unused(settings)
    runtime = _runtime()
    with _claimed(StateFiles(settings.home, "server"), runtime) as files, _listening(settings) as listening:
        _run(_serve(settings, files, runtime, listening, with_worker=with_worker))


def work(settings: Settings, *, in_background: bool) -> None:
    """Work until SIGTERM or SIGINT. Only the one in the background has state files: others may run beside it."""
    set_up_logging(settings.log_level)
    make_home(settings)
    _warn_of_unbound(settings)
    _warn_of_unused(settings)
    runtime = _runtime()
    with _claimed(StateFiles(settings.home, "worker"), runtime) if in_background else nullcontext() as files:
        _run(_work(settings, files, runtime))


async def _serve(
    settings: Settings, files: StateFiles, runtime: Runtime, listening: socket.socket, *, with_worker: bool
) -> None:
    host, port = listening.getsockname()[:2]
    # An address that stands for all of them cannot be connected to everywhere, and this machine can use its own.
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    url = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"

    def tell_started() -> None:
        files.update(dataclasses.replace(runtime, ready=True, url=url, port=port))
        click.echo(
            f"Onlooker {__version__} is at {url}, the key in {settings.home / 'key'}, how to use it at {url}/docs. "
            "Next: onlooker import transcript ~/.claude/projects (Ctrl-C stops)"
        )
        sys.stdout.flush()
        _tell_systemd()

    async with open_app(settings) as app:
        await await_part(
            lambda: app.accounts.ensure_local(settings.home),
            "the key of this home cannot be looked up: ",
            StorageUnavailable,
            time.monotonic() + settings.startup_wait_s,
        )
        server = _Server(server_config(build_site(app)), on_started=tell_started)

        def stop() -> None:
            app.waiters.let_go()
            server.stop()

        collect_rarely()
        async with running(app, with_worker=with_worker):
            with on_stop_signal(stop):
                await server.serve(sockets=[listening])


def _warn_of_unbound(settings: Settings) -> None:
    """Say where a cap in dollars bounds nothing: as good as no cap, to who relies on it."""
    if settings.cap_in_dollars:
        for model in unpriced_models(settings):
            log.warning("caps in dollars do not bound a model of no known price", model=model, see="docs/cost.md")


def _warn_of_unused(settings: Settings) -> None:
    """Say where a Redis is named that nothing is kept in: somebody may think that the queue is there."""
    if settings.queue_engine is QueueChoice.SQL and (settings.redis_url or settings.redis_host):
        log.warning("a Redis is named and not used: the queue is in the database", see="ONLOOKER_QUEUE_ENGINE=bullmq")


async def _work(settings: Settings, files: StateFiles | None, runtime: Runtime) -> None:
    stop = asyncio.Event()
    async with open_app(settings) as app, running(app, with_worker=True, with_spool=False):
        collect_rarely()
        with on_stop_signal(stop.set):
            if files is not None:
                files.update(dataclasses.replace(runtime, ready=True))
            click.echo(f"Onlooker {__version__} works on {app.database.url} (Ctrl-C stops)")
            sys.stdout.flush()
            _tell_systemd()
            await stop.wait()


def _tell_systemd() -> None:
    """Say that we are ready to systemd, where it has started us and waits for that (`Type=notify`)."""
    told_at = os.environ.get("NOTIFY_SOCKET")  # no setting of ours: it is systemd that sets it
    if not told_at or sys.platform == "win32":
        return
    address = f"\0{told_at[1:]}" if told_at.startswith("@") else told_at
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller, suppress(OSError):
        teller.sendto(b"READY=1", address)


def collect_rarely() -> None:
    """From now on, leave what was made so far out of every collection, and collect the rest less often."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


class _Server(uvicorn.Server):
    """Uvicorn, with signals left to us: it would end the process before the worker has drained."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `on_stop_signal`."""
        yield

    def stop(self) -> None:
        """Take nothing new and answer what was accepted; on a second call stop waiting for that."""
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the running loop at each SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)

    before = {each: signal.signal(each, handle) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _claimed(files: StateFiles, runtime: Runtime) -> Iterator[StateFiles]:
    held = files.claim(runtime)
    try:
        yield files
    finally:
        files.give_up(runtime.identity)
        os.close(held)


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """A bound socket. Raises `Misconfigured` where the address is taken, foreign or not ours to take."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, TCP is what asyncio sets to send at once: else each answer of two writes waits 40 ms, where uvloop is not.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        if sys.platform != "win32":
            # Without it a restart fails while connections of the last one linger; on Windows it would share the port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
            listening.listen(BACKLOG)
        except OSError as error:
            problem = f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error})"
            advice = "set ONLOOKER_PORT or --port to another port, 0 for any free one"
            raise Misconfigured([f"{problem}: {advice}"]) from error
        yield listening


def _runtime() -> Runtime:
    return Runtime(ProcessIdentity.of_this_process(), __version__, now_ms())


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run in uvloop where it is to be had."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
