"""A process that works on a queue; what it does it tells line by line as JSON on its standard output.

`python queue_process.py SPEC ROLE [ARGUMENTS]`; `started` in a test starts one. Times are the system's monotonic
clock in nanoseconds, the same for all processes.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onlooker.queue.contract import Claim, Lane, Message, QueueEngine
from queue_stores import Store, open_store

END_TIMEOUT_S = 60.0


class QueueProcess:
    """The process as its starter sees it."""

    def __init__(self, store: Store, role: str, *arguments: object) -> None:
        command = [sys.executable, __file__, store.spec, role, *map(str, arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout

    def tell(self) -> dict[str, Any]:
        """The next line, waited for."""
        line = self._lines.readline()
        assert line, f"the process ended with {self._process.wait(END_TIMEOUT_S)} instead of telling more"
        told: dict[str, Any] = json.loads(line)
        return told

    def rest(self) -> list[dict[str, Any]]:
        """All other lines, after the process has ended well."""
        output, _ = self._process.communicate(timeout=END_TIMEOUT_S)
        assert self._process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    def kill(self) -> None:
        """SIGKILL: it can clean up nothing."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate(timeout=END_TIMEOUT_S)

    def stop(self) -> None:
        """Let it end by itself, by closing its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def end(self) -> None:
        """See to it that it is gone."""
        if self._process.poll() is None:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def started(store: Store, role: str, *arguments: object) -> Iterator[QueueProcess]:
    """Start a process and see to it that it is gone afterwards."""
    process = QueueProcess(store, role, *arguments)
    try:
        yield process
    finally:
        process.end()


def claim_as_json(claim: Claim) -> str:
    lane, message = claim.lane, claim.message
    return json.dumps(
        [
            lane.name,
            lane.exclusive,
            message.id,
            message.type,
            message.tool_name,
            message.body,
            claim.token,
            claim.attempt,
        ]
    )


def claim_from_json(text: str) -> Claim:
    name, exclusive, message_id, kind, tool_name, body, token, attempt = json.loads(text)
    return Claim(Lane(name, exclusive), Message(message_id, kind, tool_name, body), token, attempt)


def say(**told: object) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def until_told_to_stop() -> None:
    await asyncio.to_thread(sys.stdin.read)


async def feed(queue: QueueEngine, name: str, lanes: int, each: int) -> None:
    """Enqueue numbered messages into every lane, in turn."""
    put = 0
    for number in range(each):
        entries = [(Lane.session(str(lane)), Message(f"{name}-{number}", "event")) for lane in range(int(lanes))]
        put += sum(await asyncio.gather(*(queue.enqueue(*entry) for entry in entries)))
    say(put=put)


async def consume(queue: QueueEngine, workers: int) -> None:
    """Serve until nothing has come for a while."""
    dice = random.Random(os.getpid())  # noqa: S311 - how long to work
    say(ready=True)

    async def work() -> None:
        claim = await queue.claim(wait_s=3)
        while claim is not None:
            began = time.monotonic_ns()
            await asyncio.sleep(dice.choice((0, 0, 0.001)))
            say(lane=claim.lane.name, id=claim.message.id, began=began, ended=time.monotonic_ns())
            confirmed, claim = await queue.confirm_and_claim(claim, wait_s=1)
            assert confirmed

    await asyncio.gather(*(work() for _ in range(workers)))


async def drain(queue: QueueEngine, workers: int) -> None:
    """Serve what is there and tell how long it took, once told to begin."""
    await queue.require_healthy()
    say(ready=True)
    await until_told_to_stop()
    began, served = time.monotonic_ns(), 0

    async def work() -> None:
        nonlocal served
        claim = await queue.claim(wait_s=0.05)
        while claim is not None:
            served += 1
            _, claim = await queue.confirm_and_claim(claim, wait_s=0.05)

    await asyncio.gather(*(work() for _ in range(workers)))
    say(served=served, began=began, ended=time.monotonic_ns())


async def hold(queue: QueueEngine) -> None:
    """Claim one message and never finish it."""
    claim = await queue.claim(wait_s=30)
    assert claim is not None
    say(claim=claim_as_json(claim))
    await until_told_to_stop()


async def confirm(queue: QueueEngine, claim: str) -> None:
    say(confirmed=await queue.confirm(claim_from_json(claim)))


async def time_claims(queue: QueueEngine, count: int) -> None:
    """Tell when each of so many messages was claimed."""
    say(ready=True)
    for _ in range(count):
        claim = await queue.claim(wait_s=30)
        assert claim is not None
        say(id=claim.message.id, at=time.monotonic_ns())
        await queue.confirm(claim)


async def main(spec: str, role: str, *arguments: str) -> None:
    async with open_store(spec).engine() as queue:
        if role == "feed":
            await feed(queue, arguments[0], int(arguments[1]), int(arguments[2]))
        elif role == "consume":
            await consume(queue, int(arguments[0]))
        elif role == "drain":
            await drain(queue, int(arguments[0]))
        elif role == "hold":
            await hold(queue)
        elif role == "confirm":
            await confirm(queue, arguments[0])
        elif role == "time_claims":
            await time_claims(queue, int(arguments[0]))
        else:
            raise ValueError(role)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
