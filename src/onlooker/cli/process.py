"""`onlooker serve`, `onlooker server …` and `onlooker worker …`."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onlooker.cli.options import json_option, tell
from onlooker.cli.state import Runtime, StateFiles


@click.command(epilog="Example: onlooker serve --port 8080")
@click.option("--host", help="The address to listen on, instead of ONLOOKER_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of ONLOOKER_PORT; 0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Only take and answer requests; `onlooker worker` does the rest.")
def serve(*, host: str | None, port: int | None, no_worker: bool) -> None:
    """Run the server in the foreground until Ctrl-C or SIGTERM.

    A worker runs inside it by default. On stop, what was accepted is answered and running work is finished.
    """
    _collect_nothing_yet()
    from onlooker.cli.serving import serve as run

    run(load(host=host, port=port), with_worker=not no_worker)


def _collect_nothing_yet() -> None:
    """What a start makes it keeps: to look for garbage in it was an eighth of its time. `collect_rarely` ends this."""
    gc.disable()


@click.group(epilog="Example: onlooker server start")
def server() -> None:
    """Run the server in the background."""


@server.command("start", epilog="Example: onlooker server start --port 0 --no-worker")
@click.option("--host", help="The address to listen on, instead of ONLOOKER_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of ONLOOKER_PORT; 0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Only take and answer requests; `onlooker worker` does the rest.")
@json_option
def server_start(*, host: str | None, port: int | None, no_worker: bool, as_json: bool) -> None:
    """Start it, and return when it is healthy. A second start says that it already runs."""
    _start("server", _serve_arguments(host, port, no_worker=no_worker), as_json=as_json)


@server.command("stop", epilog="Example: onlooker server stop")
@json_option
def server_stop(*, as_json: bool) -> None:
    """Stop it: what was accepted is answered, running work is finished."""
    _stop("server", as_json=as_json)


@server.command("restart", epilog="Example: onlooker server restart")
@click.option("--host", help="The address to listen on, instead of ONLOOKER_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of ONLOOKER_PORT; 0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Only take and answer requests; `onlooker worker` does the rest.")
@json_option
def server_restart(*, host: str | None, port: int | None, no_worker: bool, as_json: bool) -> None:
    """Stop it where it runs, then start it."""
    _stop("server", as_json=False, quiet=True)
    _start("server", _serve_arguments(host, port, no_worker=no_worker), as_json=as_json)


@server.command("status", epilog="Example: onlooker server status --json")
@json_option
def server_status(*, as_json: bool) -> None:
    """Say whether it runs and how its database, queue and workers are. Exit code 1 when it cannot serve."""
    _status("server", as_json=as_json)


@click.group(epilog="Example: onlooker worker start")
def worker() -> None:
    """Run a worker apart from the server. Any number may work on one database."""


@worker.command("run", epilog="Example: onlooker worker run")
@click.option("--background", is_flag=True, hidden=True, help="Be the worker that `onlooker worker stop` stops.")
def worker_run(*, background: bool) -> None:
    """Run a worker in the foreground until Ctrl-C or SIGTERM; it finishes what it has begun."""
    _collect_nothing_yet()
    from onlooker.cli.serving import work

    work(load(), in_background=background)


@worker.command("start", epilog="Example: onlooker worker start")
@json_option
def worker_start(*, as_json: bool) -> None:
    """Start one in the background. A second start says that it already runs."""
    _start("worker", ["worker", "run", "--background"], as_json=as_json)


@worker.command("stop", epilog="Example: onlooker worker stop")
@json_option
def worker_stop(*, as_json: bool) -> None:
    """Stop the one in the background; it finishes what it has begun."""
    _stop("worker", as_json=as_json)


@worker.command("restart", epilog="Example: onlooker worker restart")
@json_option
def worker_restart(*, as_json: bool) -> None:
    """Stop it where it runs, then start it."""
    _stop("worker", as_json=False, quiet=True)
    _start("worker", ["worker", "run", "--background"], as_json=as_json)


@worker.command("status", epilog="Example: onlooker worker status --json")
@json_option
def worker_status(*, as_json: bool) -> None:
    """Say whether the one in the background runs. Exit code 0 when it does, 1 when not."""
    _status("worker", as_json=as_json)


def load(**given: object) -> Any:
    """The settings; what was given on the command line wins."""
    from onlooker.settings import load_settings

    return load_settings(**{name: value for name, value in given.items() if value is not None})


def _home() -> Path:
    home: Path = load().home
    return home


def _serve_arguments(host: str | None, port: int | None, *, no_worker: bool) -> list[str]:
    given = [("--host", host), ("--port", None if port is None else str(port))]
    return [
        "serve",
        *(word for name, value in given if value is not None for word in (name, value)),
        *(["--no-worker"] if no_worker else []),
    ]


def _start(role: str, arguments: list[str], *, as_json: bool) -> None:
    from onlooker.app import make_home
    from onlooker.cli.daemon import start

    settings = load()
    make_home(settings)
    files = StateFiles(settings.home, role)
    runtime, is_new = start(files, arguments, timeout_s=settings.startup_wait_s + 20)
    where = f" at {runtime.url}" if runtime.url else ""
    said = f"The {role} runs{where}" if is_new else f"The {role} already runs{where}"
    tell(
        as_json,
        {**runtime.as_json(), "started": is_new},
        lambda: f"{said} (pid {runtime.pid}). Log: {files.log_file}",
    )


def _stop(role: str, *, as_json: bool, quiet: bool = False) -> None:
    from onlooker.cli.daemon import stop

    stopped = stop(StateFiles(_home(), role))
    if not quiet:
        said = f"The {role} is stopped." if stopped else f"The {role} does not run."
        tell(as_json, {"stopped": stopped is not None, "pid": stopped.pid if stopped else None}, lambda: said)


def _status(role: str, *, as_json: bool) -> None:
    from onlooker.cli.daemon import ask_health, find, is_healthy

    files = StateFiles(_home(), role)
    runtime = find(files)
    answers = runtime is not None and runtime.ready and is_healthy(runtime)
    health = ask_health(runtime) if runtime is not None and answers else None
    is_well = answers and (health is None or health["status"] == "ok")
    told: dict[str, Any] = {"running": runtime is not None, "healthy": is_well, "log": str(files.log_file)}
    if runtime is not None:
        told = {**runtime.as_json(), **told}
    if health is not None:
        told["health"] = health
    said = _describe(role, runtime, answers=answers, log=files.log_file)
    tell(as_json, told, lambda: "\n".join([said, *_describe_parts(health)]))
    if not is_well:
        click.get_current_context().exit(1)


def _describe(role: str, runtime: Runtime | None, *, answers: bool, log: Path) -> str:
    if runtime is None:
        return f"The {role} does not run. Start it with `onlooker {role} start`."
    where = f" at {runtime.url}" if runtime.url else ""
    # One in the foreground has none: what it says is where whoever started it lets it go.
    see = f" Log: {log}" if log.exists() else ""
    if answers:
        return f"The {role} runs{where} (pid {runtime.pid}, version {runtime.version}).{see}"
    return f"The {role} (pid {runtime.pid}) is there but does not answer{where}.{see}"


def _describe_parts(health: dict[str, Any] | None) -> Iterator[str]:
    """A line for each part of a server's health."""
    if health is None:
        return
    database, queue, worker = health["database"], health["queue"], health["worker"]
    yield f"  {database.get('error', 'database: ok')} ({database['engine']})"
    yield f"  {queue.get('error', 'queue: ok')} ({queue['engine']})"
    if "depth" in queue:
        lanes = {**queue["depth"]["kinds"], "sessions": queue["depth"]["sessions"]}
        for name, counts in lanes.items():
            yield f"    {name}: " + ", ".join(f"{number} {state}" for state, number in counts.items())
    if "error" not in database:
        oldest_ms = queue["oldestQueuedMs"]
        waited = "no job waits" if oldest_ms is None else f"the oldest has waited {oldest_ms / 1000:.0f} s"
        yield f"  jobs: {waited}"
        yield f"  workers: {worker['count']} seen in the last minute"
