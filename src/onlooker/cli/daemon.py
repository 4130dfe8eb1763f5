"""Start, stop and look at a process in the background."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from onlooker.cli.state import Runtime, StateFiles
from onlooker.domain.errors import Conflict, Misconfigured, Unavailable

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
"""Longer than a drain takes: answers that are waited for get 30 s, running calls 10 s more."""
LOOK_EVERY_S = 0.05
HEALTH_TIMEOUT_S = 3.0
"""Health answers within 2 s in an outage."""
WRONG_SETTINGS = 2
"""The exit code by which `onlooker serve` says so."""
LARGEST_LOG = 5_000_000
"""Bytes of log after which a start begins a new file; one old file is kept."""


def start(
    files: StateFiles,
    arguments: Sequence[str],
    *,
    timeout_s: float = START_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> tuple[Runtime, bool]:
    """Start `onlooker ARGUMENTS` in the background, in this environment or the one given; what runs, and if it is new.

    Returns when it is ready and, for a server, healthy. Raises with the last line it logged: `Misconfigured` where a
    setting is to blame, else `Unavailable`.
    """
    running = find(files)
    if running is not None:
        return running, False
    log, began_at = _open_log(files.log_file)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "onlooker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=env,
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        runtime = files.read()
        if runtime is not None and runtime.pid == process.pid and runtime.ready and is_healthy(runtime):
            return runtime, True
        code = process.poll()
        if code is not None:
            why = _last_line(files.log_file, began_at) or f"it ended with exit code {code}"
            problem = f"the {files.role} did not start: {why} (log: {files.log_file})"
            raise Misconfigured([problem]) if code == WRONG_SETTINGS else Unavailable(problem)
        time.sleep(LOOK_EVERY_S)
    process.terminate()
    raise Unavailable(f"the {files.role} was not ready within {timeout_s:g} s and was stopped; see {files.log_file}")


def stop(files: StateFiles, *, timeout_s: float = STOP_TIMEOUT_S) -> Runtime | None:
    """Stop the process, and wait until it is gone; None when none ran.

    Only a process that is certainly ours is signalled. Files that a dead one left are removed. Raises `Unavailable`
    when it takes longer.
    """
    running = find(files)
    if running is None:
        return None
    os.kill(running.pid, signal.SIGTERM)
    if not _wait_until(lambda: not running.is_running(), timeout_s):
        raise Unavailable(
            f"the {files.role} (pid {running.pid}) still finishes its work after {timeout_s:g} s: "
            f"see {files.log_file}, or end it with `kill -9 {running.pid}` (nothing is lost)"
        )
    files.sweep()
    return running


def find(files: StateFiles) -> Runtime | None:
    """The process that runs now. Files that a dead one left are removed.

    Raises `Conflict` where they name a process of another machine or container, which nobody here can look at.
    """
    runtime = files.read()
    if runtime is not None and runtime.is_running():
        return runtime
    if runtime is not None and files.may_run(runtime):
        raise Conflict(
            f"{files.runtime_file} names a process of another machine or container ({runtime.identity.host}): "
            "stop it there, or remove the file when it is gone"
        )
    files.sweep()
    return None


def is_healthy(runtime: Runtime) -> bool:
    """Whether a server answers; a process without a URL has nothing to ask."""
    return runtime.url is None or _get(runtime.url, "/healthz") is not None


def ask_health(runtime: Runtime) -> dict[str, Any] | None:
    """What a server says of its parts; None where it does not answer."""
    return None if runtime.url is None else _get(runtime.url, "/api/health")


def _get(url: str, path: str) -> dict[str, Any] | None:
    """The JSON object that a server answers with, in good times (200) and bad (503)."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "127.0.0.1", address.port or 80, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, HTTPException, ValueError):
        return None
    else:
        return told if answer.status in {200, 503} and isinstance(told, dict) else None
    finally:
        connection.close()


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _open_log(path: Path) -> tuple[int, int]:
    """The log, open for appending, and its length; a long one is put aside first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return descriptor, os.fstat(descriptor).st_size


def _last_line(path: Path, began_at: int) -> str:
    with path.open("rb") as file:
        file.seek(began_at)
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("onlooker: ") if said else ""
