"""How fast the server takes events, what each costs, how fast it starts, and what memory it keeps.

    python bench/server.py [--seconds 5] [--postgres] [--redis] [--memory 50000]

A real `onlooker serve` in a home of its own, without a worker; 16 clients on keep-alive connections; bodies of about
1.8 KB that never repeat; redaction on; SQLite with synchronous FULL. CPU is the server process' own, from the kernel.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cli_runner import EXECUTABLE, Cli
from servers import postgres_server, redis_server

CLIENTS = 16
BATCH = 500
BATCHES = 12
STARTS = 5
TICKS = os.sysconf("SC_CLK_TCK")
LINES = "ok src/queue/worker.ts:{n} retry path {n} checked in {n} ms; "


def cpu_s_of(pid: int) -> float:
    """Seconds of CPU a process of this machine has used, user and system, in steps of a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and what is needed to talk to it."""

    pid: int
    port: int
    key: str
    project: str

    def cpu_s(self) -> float:
        """Seconds of CPU the process has used, user and system."""
        return cpu_s_of(self.pid)

    def rss_mb(self) -> float:
        """Memory that the process holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def request(self, path: str, body: bytes) -> bytes:
        """A POST as it goes over the wire."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


_numbers = count(int(time.time()) * 1_000_000)


def event(project: str) -> dict[str, object]:
    """An event of about 1.8 KB that no other is like."""
    number = next(_numbers)
    return {
        "projectId": project,
        "sourceType": "hook",
        "eventType": "tool_use",
        "platformSource": "claude-code",
        "contentSessionId": f"bench-{number % 200}",
        "occurredAtEpoch": 1_790_000_000_000 + number % 1_000_000_000,
        "payload": {
            "tool_name": "Bash",
            "tool_use_id": f"toolu_{number}",
            "tool_input": {"command": f"npm test -- --grep MARK-{number}"},
            "tool_response": {"stdout": "".join(LINES.format(n=number + line) for line in range(16)), "exit_code": 0},
            "cwd": "/home/dev/app",
        },
    }


def short_event(project: str) -> dict[str, object]:
    """One of about 0.75 KB and of no session: those of a batch share a job."""
    number = next(_numbers)
    made = event(project)
    del made["contentSessionId"]
    mark = f"MARK-{number}"
    return made | {
        "payload": {
            "tool_name": "Bash",
            "tool_input": {"command": f"npm test -- --grep {mark}"},
            "tool_response": {"stdout": mark + "".join(LINES.format(n=number + line) for line in range(4))},
            "cwd": "/home/dev/app",
        }
    }


@contextmanager
def running(folder: str, settings: dict[str, str]) -> Iterator[Server]:
    """A server without a worker, in the foreground of its own process."""
    cli = Cli(Path(folder) / "home", settings)
    made = cli.run("projects", "create", "bench", "--json").json()
    key = cli.run("keys", "create", "--scope", "read,write,admin", "--json").json()["key"]
    process = subprocess.Popen(
        [EXECUTABLE, "serve", "--no-worker"], env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Server(process.pid, wait_until_healthy(cli), key, made["id"])
    finally:
        process.terminate()
        process.wait(60)


def wait_until_healthy(cli: Cli) -> int:
    """The port of a server that has just been started, as soon as it answers."""
    port_file = cli.home / ".server.port"
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        try:
            port = int(port_file.read_text())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                return port
        except (OSError, ValueError):
            time.sleep(0.005)
    raise SystemExit("the server did not start")


async def send(server: Server, path: str, until: float) -> list[float]:
    """One client's requests, one after the other; how long each took, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    took = []
    while time.perf_counter() < until:
        raw = server.request(path, json.dumps(event(server.project)).encode())
        started = time.perf_counter()
        writer.write(raw)
        await read_answer(reader)
        took.append(time.perf_counter() - started)
    writer.close()
    return took


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """An answer's body; anything but 201 ends the bench."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 201"):
        raise SystemExit(f"refused: {head[:60]!r} {body[:200]!r}")
    return body


async def single_events(server: Server, path: str, seconds: float) -> None:
    """Print the rate of single events and what one costs."""
    cpu, started = server.cpu_s(), time.perf_counter()
    every = await asyncio.gather(*(send(server, path, started + seconds) for _ in range(CLIENTS)))
    elapsed, took = time.perf_counter() - started, sorted(one for of_client in every for one in of_client)
    print(
        f"  {path:36} {len(took) / elapsed:7.0f} events/s   p50 {took[len(took) // 2] * 1000:6.2f} ms   "
        f"p99 {took[int(len(took) * 0.99)] * 1000:6.2f} ms   "
        f"CPU {(server.cpu_s() - cpu) / len(took) * 1000:.3f} ms an event",
        flush=True,
    )


async def batches(server: Server, path: str, make: Callable[[str], dict[str, object]]) -> None:
    """Print the rate of batches, one after the other."""
    bodies = [json.dumps([make(server.project) for _ in range(BATCH)]).encode() for _ in range(BATCHES)]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**22)
    cpu, started, took = server.cpu_s(), time.perf_counter(), []
    for body in bodies:
        began = time.perf_counter()
        writer.write(server.request(path, body))
        await read_answer(reader)
        took.append(time.perf_counter() - began)
    elapsed, events = time.perf_counter() - started, BATCH * BATCHES
    writer.close()
    print(
        f"  {path:36} {events / elapsed:7.0f} events/s of {len(bodies[0]) / BATCH / 1024:.2f} KB   "
        f"p50 {statistics.median(took) * 1000:6.0f} ms a batch of {BATCH}   "
        f"CPU {(server.cpu_s() - cpu) / events * 1000:.3f} ms an event",
        flush=True,
    )


async def memory(server: Server, events: int) -> None:
    """Print what memory the server holds after the first 5,000 events and after all."""
    await _post_many(server, 5_000)
    first = server.rss_mb()
    await _post_many(server, events - 5_000)
    print(f"  memory after 5,000 events {first:.1f} MB, after {events:,} {server.rss_mb():.1f} MB", flush=True)


async def _post_many(server: Server, events: int) -> None:
    each = events // CLIENTS

    async def one_client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(each):
            writer.write(server.request("/v1/events", json.dumps(event(server.project)).encode()))
            await read_answer(reader)
        writer.close()

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))


def starts(folder: str) -> None:
    """Print how long a start takes, from the command to the first healthy answer, and the memory held then."""
    took, held = [], []
    cli = Cli(Path(folder) / "starting")
    for _ in range(STARTS):
        began = time.perf_counter()
        process = subprocess.Popen(
            [EXECUTABLE, "serve"], env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port = wait_until_healthy(cli)
        took.append(time.perf_counter() - began)
        time.sleep(1)
        held.append(Server(process.pid, port, "", "").rss_mb())
        process.terminate()
        process.wait(60)
    print(f"start to healthy: median {statistics.median(took):.2f} s; idle memory {statistics.median(held):.1f} MB")


def main() -> None:
    """Measure everything on one database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--redis", action="store_true", help="the queue in a Redis, AOF everysec")
    parser.add_argument("--memory", type=int, default=0, metavar="EVENTS")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        starts(folder)
        settings = {}
        if options.postgres:
            settings["ONLOOKER_DATABASE_URL"] = stack.enter_context(postgres_server(durable=True)).url
        if options.redis:
            settings["ONLOOKER_QUEUE_ENGINE"] = "bullmq"
            settings["ONLOOKER_REDIS_URL"] = stack.enter_context(redis_server(durable=True)).url
        server = stack.enter_context(running(folder, settings))
        database = "Postgres, durable" if options.postgres else "SQLite, synchronous FULL"
        print(f"{database}{', the queue in Redis' if options.redis else ''}:")
        for path in ("/v1/events?generate=false", "/v1/events"):
            asyncio.run(single_events(server, path, options.seconds))
        for path in ("/v1/events/batch?generate=false", "/v1/events/batch"):
            for make in (event, short_event):
                asyncio.run(batches(server, path, make))
        if options.memory:
            asyncio.run(memory(server, options.memory))


if __name__ == "__main__":
    main()
