"""The queue on Redis, against a Node script that does the reference's calls with npm BullMQ (`twin.cjs`).

    python bench/redis_queues.py [--quick] [--json FILE]

Messages of about 1 kB, a Redis with AOF everysec, the two taking turns, each figure the median of the rounds. CPU is
that of the client and of Redis for each message, and says more than rates where other work shares the machine. Then
what has no twin: idle cost, many sessions, latency between two processes, depth.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import uvloop
from redis.asyncio import Redis

from node import find_node, node_environment
from onlooker.domain.jobs import KIND_LANES
from onlooker.queue.bullmq import BullmqQueue
from onlooker.queue.contract import Lane, Message
from queue_process import started
from queue_stores import BullmqStore
from servers import redis_server

HERE = Path(__file__).parent
BODY = json.dumps({"text": "x" * 900})
ROUNDS = 5
SHAPES = ((1, 1), (100, 1), (100, 16))
"""Sessions, and producers or consumers."""

LATENCY_MESSAGES = 300
IDLE_S = 60


def message(name: object) -> Message:
    return Message(f"evt_{name}", "event", "Edit", BODY)


class Spent(NamedTuple):
    """What some work took: seconds of time, of the client's CPU and of Redis'."""

    took: float
    client: float
    redis: float


async def timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def in_parallel(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    await asyncio.gather(*(work(number) for number in range(count)))


class Twin:
    """The Node script; `ask` has it measure something and gives its seconds of time and of CPU."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, what: str, **given: object) -> tuple[float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **given}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return told["took"], told["cpu"]


@contextmanager
def running_twin(url: str) -> Iterator[Twin]:
    process = subprocess.Popen(
        [find_node().program, HERE / "twin.cjs", url],
        env=node_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Twin(process)
    finally:
        process.communicate(timeout=60)


async def enqueue_all(queue: BullmqQueue, sessions: int, producers: int, count: int) -> tuple[float, float]:
    """Seconds of time and of our CPU to enqueue so many messages, each call awaited before its producer's next."""
    lanes = [Lane.session(f"s-{number}") for number in range(sessions)]

    async def produce(producer: int) -> None:
        for number in range(producer, count, producers):
            assert await queue.enqueue(lanes[number % sessions], message(number))

    cpu = time.process_time()
    took = await timed(in_parallel(producers, produce))
    return took, time.process_time() - cpu


async def drain_all(queue: BullmqQueue, consumers: int, count: int) -> tuple[float, float]:
    """Seconds of time and of our CPU to claim and confirm them as the worker does."""
    served = 0

    async def consume(_consumer: int) -> None:
        nonlocal served
        claim = await queue.claim(wait_s=0)
        while claim is not None:
            served += 1
            confirmed, claim = await queue.confirm_and_claim(claim, wait_s=0)
            assert confirmed

    cpu = time.process_time()
    took = await timed(in_parallel(consumers, consume))
    assert served == count, served
    return took, time.process_time() - cpu


class Bench:
    """All measurements on one Redis."""

    def __init__(self, url: str, *, quick: bool) -> None:
        self.url = url
        self.quick = quick
        self.figures: dict[str, float] = {}

    def note(self, name: str, value: float, unit: str) -> None:
        self.figures[f"{name} ({unit})"] = round(value, 3)
        print(f"{name:64} {value:12,.2f} {unit}", flush=True)

    @asynccontextmanager
    async def engine(self, prefix: str) -> AsyncIterator[BullmqQueue]:
        async with BullmqStore(self.url, prefix).engine(kinds=tuple(KIND_LANES.values())) as queue:
            yield queue

    async def run(self) -> None:
        with running_twin(self.url) as twin:
            await self.against(twin)
        await self.empty()
        await self.many_sessions()
        await self.depth_and_idle()
        await self.latency()

    async def empty(self) -> None:
        async with Redis.from_url(self.url) as client:
            await client.flushall()

    async def redis_cpu(self) -> float:
        async with Redis.from_url(self.url) as client:
            told = await client.info("cpu")
        return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])

    async def spent(self, work: Awaitable[tuple[float, float]]) -> Spent:
        before = await self.redis_cpu()
        took, client = await work
        return Spent(took, client, await self.redis_cpu() - before)

    async def against(self, twin: Twin) -> None:
        """Enqueue, then claim and confirm; ours and the twin's in turns."""
        spent: dict[tuple[str, str], list[Spent]] = defaultdict(list)
        counts: dict[str, int] = {}
        for number in range(2 if self.quick else ROUNDS):
            for sessions, workers in SHAPES:
                count = (400 if self.quick else 2_000) * (2 if workers > 1 else 1)
                shape = f"{sessions} session{'s' * (sessions > 1)}, {workers} at a time"
                given = {"prefix": f"twin-{number}-{sessions}-{workers}", "sessions": sessions}
                enqueue, drain = f"enqueue, {shape}", f"claim and confirm, {shape}"
                counts |= {enqueue: count, drain: count}
                asked = asyncio.to_thread(twin.ask, "enqueue", **given, producers=workers, count=count)
                spent["npm bullmq", enqueue].append(await self.spent(asked))
                asked = asyncio.to_thread(twin.ask, "drain", **given, consumers=workers)
                spent["npm bullmq", drain].append(await self.spent(asked))
                await self.empty()
                async with self.engine("ours") as queue:
                    await queue.require_healthy()
                    spent["ours", enqueue].append(await self.spent(enqueue_all(queue, sessions, workers, count)))
                    spent["ours", drain].append(await self.spent(drain_all(queue, workers, count)))
                await self.empty()
        for what, count in counts.items():
            rates = {}
            for whose in ("ours", "npm bullmq"):
                rounds = spent[whose, what]
                rates[whose] = count / statistics.median(each.took for each in rounds)
                self.note(f"{what}: {whose}", rates[whose], "/s")
                for part in ("client", "redis"):
                    cpu = statistics.median(getattr(each, part) for each in rounds)
                    self.note(f"{what}: {whose}, CPU of the {part}", cpu / count * 1e6, "us")
            self.note(f"{what}: ratio", rates["ours"] / rates["npm bullmq"], "x")

    async def many_sessions(self) -> None:
        """The time of a message when each has a session of its own, against a hundred sessions; two processes."""
        many = 1_000 if self.quick else 10_000
        took: dict[int, list[float]] = {100: [], many: []}
        for _ in range(1 if self.quick else 3):
            for sessions, rounds in took.items():
                store = BullmqStore(self.url, "drain")
                async with store.engine() as queue:
                    for start in range(0, many, 500):
                        entries = [
                            (Lane.session(f"s-{number % sessions}"), message(number))
                            for number in range(start, start + 500)
                        ]
                        await queue.enqueue_many(entries)
                with started(store, "drain", 16) as first, started(store, "drain", 16) as second:
                    for process in (first, second):
                        await asyncio.to_thread(process.tell)
                        process.stop()
                    ended = [await asyncio.to_thread(process.tell) for process in (first, second)]
                served = sum(each["served"] for each in ended)
                assert served == many, served
                rounds.append((max(each["ended"] for each in ended) - min(each["began"] for each in ended)) / 1e9)
                await self.empty()
        per_message = {sessions: statistics.median(rounds) / many * 1e6 for sessions, rounds in took.items()}
        for sessions, us in per_message.items():
            self.note(f"drain {many} messages of {sessions} sessions by two processes", us, "us a message")
        self.note(f"drain: {many} sessions against 100", per_message[many] / per_message[100], "x")

    async def depth_and_idle(self) -> None:
        """Depth while every session has a message; then, all served, commands and connections of an idle process."""
        many = 1_000 if self.quick else 10_000
        async with Redis.from_url(self.url) as client, self.engine("idle") as queue:
            for start in range(0, many, 500):
                await queue.enqueue_many(
                    [(Lane.session(f"s-{number}"), message(number)) for number in range(start, start + 500)]
                )
            took = [await timed(queue.depth()) for _ in range(20)]
            self.note(f"depth with {many} sessions, median", statistics.median(took) * 1000, "ms")
            while claims := await queue.claim_many(50, wait_s=0):
                await asyncio.gather(*(queue.confirm(claim) for claim in claims))
            waiting = [asyncio.create_task(queue.claim(wait_s=IDLE_S + 60)) for _ in range(32)]
            await asyncio.sleep(2)
            before = (await client.info("stats"))["total_commands_processed"]
            await asyncio.sleep(IDLE_S)
            after = (await client.info("stats"))["total_commands_processed"]
            ours = [each for each in await client.client_list() if each["name"] == "onlooker"]
            self.note(f"idle, {many} sessions known, 32 callers waiting", (after - before - 1) / IDLE_S, "commands/s")
            self.note("idle, connections of the process", len(ours), "")
            keys = [key async for key in client.scan_iter("idle:session.*", count=1000)]
            lasting = [key for key in keys if await client.pttl(key) < 0]
            self.note("idle, keys of sessions that never expire", len(lasting), "")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await self.empty()

    async def latency(self) -> None:
        """From the call that enqueues in one process to the claim in another that waits."""
        store, count, sent = BullmqStore(self.url, "latency"), 100 if self.quick else LATENCY_MESSAGES, {}
        async with store.engine() as queue:
            with started(store, "time_claims", count) as consumer:
                await asyncio.to_thread(consumer.tell)
                for number in range(count):
                    sent[message(number).id] = time.monotonic_ns()
                    await queue.enqueue(Lane.session(str(number)), message(number))
                    await asyncio.sleep(0.01)
                told = await asyncio.to_thread(consumer.rest)
        late_ms = sorted((line["at"] - sent[line["id"]]) / 1e6 for line in told)
        self.note("enqueue to claim in another process, p50", statistics.median(late_ms), "ms")
        self.note("enqueue to claim in another process, p99", late_ms[int(len(late_ms) * 0.99)], "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of everything")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    with redis_server(durable=True) as server:
        print(f"on {server.binary.name}", flush=True)
        bench = Bench(server.url, quick=asked.quick)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server and the worker run
            runner.run(bench.run())
    if asked.json:
        asked.json.write_text(json.dumps(bench.figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
