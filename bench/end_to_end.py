"""From a request to stored observations, over processes: a server, a worker, Postgres and a queue.

    python bench/end_to_end.py [--queue bullmq|sql] [--events 2000] [--sessions 50] [--delay-ms 200] [--concurrency 50]
    python bench/end_to_end.py --memory [--events 20000] [--sessions 5000]

The model is the scripted one, which takes as long as it is told. 16 clients post single events of about 1 kB; the time
runs from the first request until the last job is completed. Afterwards each event must have its one observation, every
session's in order. CPU is the kernel's count for each process. `--memory` looks at the worker's memory instead.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil

from deployment import Deployment, deployment
from postgres_admin import admin_execute, admin_fetch, with_database
from servers import Server, postgres_server, redis_server

CLIENTS = 16
POLL_S = 0.1
COUNT = "SELECT count(*) AS done FROM observation_generation_jobs WHERE status = 'completed'"


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its children, user and system."""
    process = psutil.Process(pid)
    every = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(times.user + times.system for times in every)


def rss_mb(process: "subprocess.Popen[bytes]") -> float:
    return float(psutil.Process(process.pid).memory_info().rss) / 2**20


async def post(it: Deployment, events: int, sessions: int, first: int = 0) -> float:
    """Post single events of all sessions in turns; the seconds it took. A session's events are one client's."""
    began = time.perf_counter()

    async def one_client(client: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(it.url.rpartition(":")[2]))
        for number in range(first, first + events):
            turn, session = divmod(number, sessions)
            if session % CLIENTS != client:
                continue
            writer.write(it.request(it.event(session, turn)))
            assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.close()

    await asyncio.gather(*(one_client(client) for client in range(CLIENTS)))
    return time.perf_counter() - began


def wait_until_done(url: str, events: int, timeout_s: float = 900) -> None:
    give_up_at = time.perf_counter() + timeout_s
    while admin_fetch(url, COUNT)[0]["done"] < events:
        if time.perf_counter() > give_up_at:
            raise SystemExit(f"not done after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def measure_time(it: Deployment, url: str, programs: dict[str, Server], events: int, sessions: int) -> None:
    server, worker = it.serve("--no-worker"), it.work()
    it.wait_until_begun(server, worker)
    pids = {"server": server.pid, "worker": worker.pid, **{name: program.pid for name, program in programs.items()}}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    posted_s = asyncio.run(post(it, events, sessions))
    wait_until_done(url, events)
    took_s = time.perf_counter() - began
    spent = ", ".join(f"{name} {(cpu_s(pid) - before[name]) / events * 1000:.2f}" for name, pid in pids.items())
    print(f"  posted in {posted_s:.1f} s, all observed after {took_s:.1f} s; CPU, ms an event: {spent}", flush=True)
    it.assert_one_at_a_time()
    assert it.statuses() == {"completed": events}


def measure_memory(it: Deployment, url: str, events: int, sessions: int) -> None:
    server, worker = it.serve("--no-worker"), it.work()
    it.wait_until_begun(server, worker)
    told = [f"at start {rss_mb(worker):.1f} MB"]
    step = events // 5
    for first in range(0, events, step):
        asyncio.run(post(it, step, sessions, first))
        wait_until_done(url, first + step)
        told.append(f"{first + step:,}: {rss_mb(worker):.1f}")
    print(f"  the worker's memory over {sessions:,} sessions: {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", choices=("bullmq", "sql"), default="bullmq")
    parser.add_argument("--events", type=int)
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--delay-ms", type=int)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    events = asked.events or (20_000 if asked.memory else 2_000)
    sessions = asked.sessions or (5_000 if asked.memory else 50)
    delay_ms = (0 if asked.memory else 200) if asked.delay_ms is None else asked.delay_ms
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onlooker-bench-")))
        postgres = stack.enter_context(postgres_server(durable=True))
        admin_execute(postgres.url, "CREATE DATABASE bench")
        url = with_database(postgres.url, "bench")
        settings = {
            "ONLOOKER_SCRIPTED_DELAY_MS": str(delay_ms),
            "ONLOOKER_WORKER_CONCURRENCY": str(asked.concurrency),
            "ONLOOKER_QUEUE_ENGINE": asked.queue,
        }
        programs: dict[str, Server] = {"postgres": postgres}
        if asked.queue == "bullmq":
            programs["redis"] = stack.enter_context(redis_server(durable=True))
            settings["ONLOOKER_REDIS_URL"] = programs["redis"].url
        it = stack.enter_context(deployment(folder, url, **settings))
        print(
            f"{events:,} events, {sessions:,} sessions, a model of {delay_ms} ms, Postgres, {asked.queue}:", flush=True
        )
        if asked.memory:
            measure_memory(it, url, events, sessions)
        else:
            measure_time(it, url, programs, events, sessions)


if __name__ == "__main__":
    main()
