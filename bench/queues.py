"""How fast the queue is: `python bench/queues.py [--quick] [--json FILE] [sqlite] [postgres]`.

One process, messages of about 1 kB. Rates are of whole calls, each awaited before the next of its worker. `large` fills
a million messages into ten thousand sessions in both orders and times single claims. (`queue.py` would hide the
standard library's module from every script beside it.)
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from onlooker.host import ProcessIdentity
from onlooker.queue.contract import Lane, Message
from onlooker.queue.sql import SqlQueue
from onlooker.storage import schema
from onlooker.storage.database import open_database
from queue_process import started
from queue_stores import SqlStore
from servers import postgres_server

BODY = json.dumps({"text": "x" * 900})
WORKERS = 16
PORTION = 500


def message(name: object) -> Message:
    return Message(f"evt_{name}", "event", "Edit", BODY)


async def in_parallel(workers: int, work: Callable[[int], Awaitable[int]]) -> float:
    """How many calls a second so many workers make; `work` tells how many it made."""
    began = time.perf_counter()
    made = sum(await asyncio.gather(*(work(worker) for worker in range(workers))))
    return made / (time.perf_counter() - began)


class Bench:
    """The measurements of one database."""

    def __init__(self, kind: str, url: str, *, quick: bool) -> None:
        self.kind = kind
        self.url = url
        self.quick = quick
        self.count = 2_000 if quick else 10_000
        self.figures: dict[str, float] = {}

    def note(self, name: str, value: float, unit: str) -> None:
        self.figures[f"{self.kind} {name} ({unit})"] = round(value, 3)
        print(f"{self.kind:9} {name:48} {value:12,.2f} {unit}", flush=True)

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[SqlQueue]:
        async with open_database(self.url) as database:
            await schema.prepare(database)
            queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
            try:
                yield queue
            finally:
                await queue.close()

    async def run(self) -> None:
        async with self.engine() as queue:
            await self.enqueue_rates(queue)
            await self.claim_rates(queue)
        await self.latency()
        for order in ("lane by lane", "round robin"):
            await self.empty()
            async with self.engine() as queue:
                await self.large(queue, order)

    async def empty(self) -> None:
        store = SqlStore(self.url)
        await store.empty()
        await store.close()

    async def enqueue_rates(self, queue: SqlQueue) -> None:
        """Into one session and into a hundred, by one producer and by many."""
        count = self.count
        for sessions, producers in ((1, 1), (100, 1), (100, WORKERS)):
            lanes = [Lane.session(f"{sessions}-{producers}-{number}") for number in range(sessions)]
            each = count // producers if producers > 1 else count // 4

            async def produce(worker: int, lanes: list[Lane] = lanes, each: int = each) -> int:
                for number in range(each):
                    await queue.enqueue(lanes[(number * WORKERS + worker) % len(lanes)], message(f"{worker}-{number}"))
                return each

            self.note(
                f"enqueue, sessions {sessions}, producers {producers}", await in_parallel(producers, produce), "/s"
            )
            for lane in lanes:
                await queue.clear(lane)
        entries = [(lanes[number % 100], message(f"many-{number}")) for number in range(count)]
        began = time.perf_counter()
        await queue.enqueue_many(entries)
        self.note(f"enqueue_many of {PORTION}", count / (time.perf_counter() - began), "/s")
        for lane in lanes:
            await queue.clear(lane)

    async def claim_rates(self, queue: SqlQueue) -> None:
        """Claim and confirm from a hundred sessions, in two calls and in one, by one consumer and by many."""

        async def claim_then_confirm(_worker: int) -> int:
            served = 0
            while (claim := await queue.claim(wait_s=0)) is not None:
                await queue.confirm(claim)
                served += 1
            return served

        async def confirm_and_claim(_worker: int) -> int:
            served = 0
            claim = await queue.claim(wait_s=0)
            while claim is not None:
                _, claim = await queue.confirm_and_claim(claim, wait_s=0)
                served += 1
            return served

        lanes = [Lane.session(str(number)) for number in range(100)]
        for workers in (1, WORKERS):
            for name, work in (("claim, confirm", claim_then_confirm), ("confirm_and_claim", confirm_and_claim)):
                total = self.count if workers > 1 else self.count // 4
                entries = [(lanes[number % 100], message(f"{name}{workers}-{number}")) for number in range(total)]
                await queue.enqueue_many(entries)
                self.note(f"{name}, consumers {workers}", await in_parallel(workers, work), "/s")

    async def latency(self) -> None:
        """From enqueue in this process to claim in another that waits."""
        await self.empty()
        count = 100 if self.quick else 500
        store = SqlStore(self.url)
        sent = {}
        async with self.engine() as queue:
            with started(store, "time_claims", count) as consumer:
                await asyncio.to_thread(consumer.tell)
                for number in range(count):
                    name = message(number).id
                    sent[name] = time.monotonic_ns()
                    await queue.enqueue(Lane.session(str(number)), message(number))
                    await asyncio.sleep(0.01)
                told = await asyncio.to_thread(consumer.rest)
        late_ms = sorted((line["at"] - sent[line["id"]]) / 1e6 for line in told)
        self.note("enqueue to claim in another process, p50", statistics.median(late_ms), "ms")
        self.note("enqueue to claim in another process, p99", late_ms[int(len(late_ms) * 0.99)], "ms")

    async def large(self, queue: SqlQueue, order: str) -> None:
        """Single claims at a million messages in ten thousand sessions."""
        sessions, each = (1_000, 100) if self.quick else (10_000, 100)
        lanes = [Lane.session(str(number)) for number in range(sessions)]
        small = "{}"
        if order == "lane by lane":
            entries = ((lane, Message(f"evt_{n}", "event", "Edit", small)) for lane in lanes for n in range(each))
        else:
            entries = ((lane, Message(f"evt_{n}", "event", "Edit", small)) for n in range(each) for lane in lanes)
        began = time.perf_counter()
        total = 0
        while portion := [entry for _, entry in zip(range(PORTION * 20), entries, strict=False)]:
            total += await queue.enqueue_many(portion)
        self.note(f"fill {total} {order}", total / (time.perf_counter() - began), "/s")
        claims, confirms = [], []
        for _ in range(500 if self.quick else 2_000):
            began = time.perf_counter()
            claim = await queue.claim(wait_s=0)
            claims.append((time.perf_counter() - began) * 1000)
            assert claim is not None
            began = time.perf_counter()
            await queue.confirm(claim)
            confirms.append((time.perf_counter() - began) * 1000)
        for name, took in (("claim", sorted(claims)), ("confirm", sorted(confirms))):
            self.note(f"{name} at {total} {order}, p50", statistics.median(took), "ms")
            self.note(f"{name} at {total} {order}, p99", took[int(len(took) * 0.99)], "ms")
        held = []
        began = time.perf_counter()
        while len(held) < sessions // 2 and (more := await queue.claim_many(100, wait_s=0)):
            held += more
        self.note(f"claim_many(100) at {total} {order}", len(held) / (time.perf_counter() - began), "/s")
        began = time.perf_counter()
        depth = await queue.depth()
        self.note(f"depth at {depth.pending} {order}", (time.perf_counter() - began) * 1000, "ms")


@contextmanager
def databases(kinds: list[str]) -> Iterator[Iterator[tuple[str, str]]]:
    """A URL for each kind of database, one after the other; they are durable, as they are in use."""

    def each() -> Iterator[tuple[str, str]]:
        for kind in kinds:
            if kind == "sqlite":
                with tempfile.TemporaryDirectory() as folder:
                    yield kind, f"sqlite:///{folder}/onlooker.db"
            else:
                with postgres_server(durable=True) as server:
                    yield kind, server.url

    yield each()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the queue.")
    parser.add_argument("kinds", nargs="*", default=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    figures: dict[str, float] = {}
    with databases(asked.kinds) as urls:
        for kind, url in urls:
            bench = Bench(kind, url, quick=asked.quick)
            asyncio.run(bench.run())
            figures |= bench.figures
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
