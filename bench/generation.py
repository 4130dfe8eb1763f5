"""How fast events become observations with a model that takes 200 ms, what a job costs, and how batches bound the bill.

    python bench/generation.py [--postgres] throughput     2,000 events of 50 sessions, per event and in batches
    python bench/generation.py [--postgres] cpu            own CPU of a job, with a model that answers at once
    python bench/generation.py sessions FOLDER             transcripts: calls and tokens in batches, against one a call

Server, worker and model server are processes of their own. CPU is the worker process' own, from the kernel.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx

from deployment import Deployment, deployment
from postgres_admin import admin_execute, with_database
from servers import postgres_server

MODEL = Path(__file__).parents[1] / "tests" / "model_server.py"
SESSIONS, EACH = 50, 40
TICKS = os.sysconf("SC_CLK_TCK")
PER_EVENT = {
    "ONLOOKER_GENERATION_POLICY": "per-event",
    "ONLOOKER_WORKER_CONCURRENCY": "50",
    "ONLOOKER_OPENAI_CONCURRENCY": "50",
}
SETTLED_WITHIN_S = 900

_rounds = count(1)


Database = Callable[[], str | None]
"""The URL of a database where nothing was stored yet; None for the file in a home."""


def new_database(server_url: str) -> str:
    """A database of its own on this server: the events of a round are the same as those of the one before."""
    name = f"round_{next(_rounds)}"
    admin_execute(server_url, f"CREATE DATABASE {name}")
    return with_database(server_url, name)


class Model:
    """The model server's process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def totals(self) -> dict[str, Any]:
        """What was asked so far."""
        told: dict[str, Any] = httpx.get(f"{self.url}/_control", trust_env=False, timeout=120).json()
        return told


@contextmanager
def model(delay_s: float) -> Iterator[Model]:
    """A model server that takes so long for each call."""
    orders = json.dumps({"delay_s": delay_s})
    process = subprocess.Popen([sys.executable, str(MODEL), "--orders", orders], stdout=subprocess.PIPE, text=True)
    try:
        yield Model(process.stdout.readline().strip() if process.stdout else "")
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def rig(
    policy: dict[str, str], database_url: str | None = None, delay_s: float = 0
) -> Iterator[tuple[Deployment, Model]]:
    """A home of its own whose provider is a model server."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        asked = stack.enter_context(model(delay_s))
        provider = {"ONLOOKER_PROVIDER": "openai", "ONLOOKER_OPENAI_BASE_URL": f"{asked.url}/v1"}
        yield stack.enter_context(deployment(Path(folder), database_url, **provider, **policy)), asked


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def throughput(database: Database) -> None:
    """Print how long 2,000 events take until all are observed, from the first post on."""
    for name, policy in (("per event, 50 at a time", PER_EVENT), ("in batches, by the defaults", {})):
        with rig(policy, database(), delay_s=0.2) as (it, asked):
            it.wait_until_begun(it.serve("--no-worker"), it.work())
            began = time.perf_counter()
            it.post_sessions(SESSIONS, EACH)
            posted = time.perf_counter() - began
            it.wait_until_settled(SETTLED_WITHIN_S)
            took = time.perf_counter() - began
            told = f"{took:.1f} s (posted in {posted:.1f}), {observations(it)} observations, {asked.totals()}"
            print(f"{name}: {told}", flush=True)


def observations(it: Deployment) -> int:
    """How many are stored."""
    from sqlalchemy import func, select

    from onlooker.storage.tables import observations as table

    return it.read(lambda conn: int(conn.execute(select(func.count()).select_from(table)).scalar_one()))


def cpu(database: Database) -> None:
    """Print the worker's CPU for each job, its start left out: it begins, and stands still until all are posted."""
    for name, policy in (("per event", PER_EVENT), ("in batches", {})):
        with rig(policy, database()) as (it, asked):
            server, worker = it.serve("--no-worker"), it.work()
            it.wait_until_begun(server, worker)
            it.freeze(worker, holds_jobs=False)
            before = cpu_s(worker.pid)
            it.post_sessions(SESSIONS, EACH)
            worker.send_signal(signal.SIGCONT)
            it.wait_until_settled(SETTLED_WITHIN_S)
            used = (cpu_s(worker.pid) - before) / SESSIONS / EACH
            print(f"{name}: {used * 1000:.2f} ms a job; a start {before:.2f} s; {asked.totals()}", flush=True)


def sessions(folder: Path) -> None:
    """Print, for each transcript, what batches take of the calls and of the input tokens of one call an event."""
    totals = {"batch": [0, 0], "per-event": [0, 0]}
    for path in sorted(folder.glob("*.jsonl")):
        told: dict[str, dict[str, Any]] = {}
        for policy in totals:
            with rig({**PER_EVENT, "ONLOOKER_GENERATION_POLICY": policy}) as (it, asked):
                it.cli.succeed("import", "transcript", str(path), "--project", "faults")
                it.wait_until_begun(it.serve("--no-worker"), it.work())
                it.wait_until_settled(SETTLED_WITHIN_S)
                told[policy] = {**asked.totals(), "jobs": it.statuses()}
        for policy, of_one in told.items():
            totals[policy][0] += of_one["calls"]
            totals[policy][1] += of_one["tokens"]
        batch, single = told["batch"], told["per-event"]
        print(
            f"{path.name}: calls {batch['calls']} of {single['calls']}, "
            f"tokens {batch['tokens'] / max(single['tokens'], 1):.3f}, jobs {batch['jobs']}",
            flush=True,
        )
    (calls, tokens), (all_calls, all_tokens) = totals["batch"], totals["per-event"]
    print(f"all: calls {calls / all_calls:.3f}, input tokens {tokens / all_tokens:.3f} of one call an event")


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("what", choices=("throughput", "cpu", "sessions"))
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    if options.what == "sessions":
        if options.folder is None:
            parser.error("sessions needs the folder of the transcripts")
        sessions(options.folder)
        return
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server(durable=True)) if options.postgres else None
        {"throughput": throughput, "cpu": cpu}[options.what](
            lambda: None if server is None else new_database(server.url)
        )


if __name__ == "__main__":
    main()
