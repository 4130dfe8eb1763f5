"""What a running server takes for search, context and tools at many notes, with many clients and while it embeds.

    python bench/recall_load.py [--notes 100000] [--database sqlite:////path] [--seconds 20] [--without 20000]
                                [--to-the-end] [--only-embedding]

A real `onlooker serve` with its worker and the local embedder, over HTTP; the notes as in `search.py`, with vectors
made at random. With `--database` that database is filled where it is empty, else used as it is, and kept. Prints the
latency of one client and of 16 by turns, of REST beside the SDK's MCP client, of a session's context, and of search and
ingest before, while and after `--without` notes get their vectors: from an endpoint that answers at once, since local
vectors are made in a thread that steps back behind all others.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx
import httpx2
import numpy as np
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from search import VECTOR_SIZE, fill_and_tell, filled_scope, give_vectors
from server import CLIENTS, Server, event, wait_until_healthy

from cli_runner import EXECUTABLE, Cli
from observed import new_scope
from onlooker.app import open_app
from onlooker.domain.models import KeyScope, Principal, Scope
from onlooker.settings import load_settings
from onlooker.storage import schema
from onlooker.storage.database import Connection, Database, open_database

MODEL = "multilingual-e5-small-q4/384"
QUESTIONS = ("common", "scarce", "how is seldom done", "common scarce seldom")
ROUNDS = 60
TURNS = 5
SEARCH_EVERY_S = 0.25
INGEST_EVERY_S = 0.05
LOOK_EVERY_S = 10.0

Request = Callable[[], Awaitable[object]]


@asynccontextmanager
async def endpoint() -> AsyncIterator[dict[str, str]]:
    """An endpoint that embeds at once, with vectors made beforehand; the settings that name it."""
    chance = np.random.default_rng(7)
    vectors_ready = [
        json.dumps([round(float(number), 4) for number in chance.standard_normal(VECTOR_SIZE)]) for _ in range(64)
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                count = len(json.loads(await reader.readexactly(length))["input"])
                items = (f'{{"index": {n}, "embedding": {vectors_ready[n]}}}' for n in range(count))
                body = f'{{"data": [{", ".join(items)}]}}'.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield {
            "ONLOOKER_EMBEDDER": "openai",
            "ONLOOKER_EMBEDDER_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "ONLOOKER_EMBEDDER_MODEL": MODEL.partition("/")[0],
        }


async def prepare(url: str, notes: int) -> tuple[Scope, str]:
    """Fill the database, and make a key for its project; whose notes they are, and the key."""
    async with open_database(url) as database:
        await schema.prepare(database)
        scope = await database.read(filled_scope)
        if scope is None:
            scope = await new_scope(database)
            await fill_and_tell(database, scope, notes)
        await give_vectors(database, scope, MODEL)
    async with open_app(load_settings(database_url=url)) as app:
        admin = Principal(scope.team_id, None, None, frozenset({KeyScope.ADMIN}))
        made = await app.accounts.create_key(
            admin, scopes=frozenset({KeyScope.READ, KeyScope.WRITE}), project_id=scope.project_id
        )
    return scope, made.key


@contextmanager
def serving(folder: Path, url: str, scope: Scope, key: str, embedder: dict[str, str]) -> Iterator[Server]:
    """A server with its worker."""
    cli = Cli(folder / "home", {"ONLOOKER_DATABASE_URL": url, **embedder})
    process = subprocess.Popen([EXECUTABLE, "serve"], env=cli.env, stdout=subprocess.DEVNULL)
    try:
        yield Server(process.pid, wait_until_healthy(cli), key, scope.project_id)
    finally:
        process.terminate()
        process.wait(60)


class Asked:
    """The requests that are measured, each of one client's connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = itertools.count()
        self.url = f"http://127.0.0.1:{server.port}"
        self.headers = {"authorization": f"Bearer {server.key}"}

    def client(self) -> httpx.AsyncClient:
        """A client with connections of its own."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=60, trust_env=False)

    @asynccontextmanager
    async def tools(self) -> AsyncIterator[Client]:
        """The SDK's client, after its handshake."""
        async with (
            httpx2.AsyncClient(headers=self.headers, timeout=60, trust_env=False) as http,
            Client(streamable_http_client(f"{self.url}/v1/mcp", http_client=http)) as client,
        ):
            yield client

    def question(self) -> str:
        """The next question; no two in a row are the same."""
        return QUESTIONS[next(self._numbers) % len(QUESTIONS)]

    async def search(self, client: httpx.AsyncClient) -> None:
        """Search by words and meaning, a line a hit."""
        body = {"projectId": self.server.project, "query": self.question()}
        (await client.post("/v1/search/index", json=body)).raise_for_status()

    async def ingest(self, client: httpx.AsyncClient) -> None:
        """Store an event with its job."""
        (await client.post("/v1/events", json=event(self.server.project))).raise_for_status()

    async def context(self, client: httpx.AsyncClient) -> None:
        """What a new session should know."""
        asked = {"projectId": self.server.project}
        (await client.get("/v1/context/session", params=asked)).raise_for_status()

    async def tool(self, client: Client) -> None:
        """The same search by the tool of the protocol."""
        result = await client.call_tool("search", {"query": self.question()})
        if result.is_error:
            raise SystemExit(f"the tool failed: {result.content}")


async def took_ms(request: Awaitable[object]) -> float:
    """How long one request takes."""
    began = time.perf_counter()
    await request
    return (time.perf_counter() - began) * 1000


def at(took: list[float], share: float) -> float:
    """The value below which this share of them is."""
    return sorted(took)[min(int(len(took) * share), len(took) - 1)]


def said(label: str, took: list[float], more: str = "") -> None:
    """Print one line of figures."""
    print(
        f"  {label:44} p50 {at(took, 0.5):8.1f} ms   p99 {at(took, 0.99):8.1f} ms   n {len(took):5}{more}", flush=True
    )


async def one_and_many(server: Server, asked: Asked) -> None:
    """One client, then 16 at once."""

    async def one_client(rounds: int) -> list[float]:
        async with asked.client() as client:
            await asked.search(client)
            return [await took_ms(asked.search(client)) for _ in range(rounds)]

    found: dict[int, list[float]] = {1: [], CLIENTS: []}
    cpu, took = server.cpu_s(), 0
    for _ in range(TURNS):
        for clients in found:
            each = ROUNDS // TURNS if clients == 1 else 3
            every = await asyncio.gather(*(one_client(each) for _ in range(clients)))
            found[clients] += [one for of_client in every for one in of_client]
            took += clients * (each + 1)
    said("search, one client", found[1])
    ratio = at(found[CLIENTS], 0.5) / at(found[1], 0.5)
    said(f"search, {CLIENTS} clients", found[CLIENTS], f"   {ratio:.1f} times that of one")
    print(f"  CPU of the server for a search {(server.cpu_s() - cpu) / took * 1000:.1f} ms", flush=True)


async def tools_beside_rest(server: Server, asked: Asked) -> None:
    """The same searches by REST and by the tool, and the context of a session, by turns."""
    async with asked.client() as client, asked.tools() as tools:
        requests: dict[str, Request] = {
            "search by REST": lambda: asked.search(client),
            "search by the SDK's MCP client": lambda: asked.tool(tools),
            "context of a session": lambda: asked.context(client),
        }
        found = {label: list[float]() for label in requests}
        cpu = dict.fromkeys(requests, 0.0)
        for _ in range(TURNS):
            for label, request in requests.items():
                began = server.cpu_s()
                found[label] += [await took_ms(request()) for _ in range(ROUNDS // TURNS)]
                cpu[label] += server.cpu_s() - began
    for label, took in found.items():
        said(label, took, f"   CPU of the server {cpu[label] / len(took) * 1000:.1f} ms")


async def paced(request: Request, every_s: float, is_over: Callable[[], bool]) -> list[float]:
    """Ask again and again, at this pace at most; how long each took."""
    took = []
    while not is_over():
        began = time.perf_counter()
        await request()
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(max(0.0, every_s - (time.perf_counter() - began)))
    return took


async def beside_embedding(
    url: str, scope: Scope, asked: Asked, *, seconds: float, without: int, to_the_end: bool
) -> None:
    """Search and ingest while nothing else is to do, while notes get their vectors, and after that."""

    async def phase(label: str, is_over: Callable[[], bool] | None = None) -> None:
        until = time.perf_counter() + seconds
        is_over = is_over or (lambda: time.perf_counter() >= until)
        began, cpu = time.perf_counter(), asked.server.cpu_s()
        async with asked.client() as searching, asked.client() as storing:
            found, stored = await asyncio.gather(
                paced(lambda: asked.search(searching), SEARCH_EVERY_S, is_over),
                paced(lambda: asked.ingest(storing), INGEST_EVERY_S, is_over),
            )
        said(f"search, {label}", found)
        said(f"ingest, {label}", stored)
        print(
            f"  {time.perf_counter() - began:.0f} s, CPU of the server {asked.server.cpu_s() - cpu:.0f} s, "
            f"load {os.getloadavg()[0]:.0f}",
            flush=True,
        )

    async with open_database(url) as database, asked.client() as client:
        await asked.search(client)
        await phase("before")
        newest = await newest_note(database)
        await database.tx(lambda conn: take_vectors(conn, newest, without))
        first = await missing(database, newest)
        await asyncio.sleep(3)
        all_have_theirs = asyncio.create_task(until_none_is_missing(database, newest)) if to_the_end else None
        await phase("while notes get their vectors", None if all_have_theirs is None else all_have_theirs.done)
        left = await missing(database, newest)
        print(f"  of {first} notes without a vector {first - left} got theirs meanwhile", flush=True)
        await give_vectors(database, scope, MODEL)
        await asyncio.sleep(3)
        await phase("after")


async def until_none_is_missing(database: Database, newest: int) -> None:
    """Return when every note up to this one has its vector."""
    while await missing(database, newest):  # noqa: ASYNC110 - another process makes them
        await asyncio.sleep(LOOK_EVERY_S)


def take_vectors(conn: Connection, newest: int, count: int) -> None:
    """Take the vectors of the newest notes, so that they count as new ones."""
    conn.exec_driver_sql(f"DELETE FROM search_vectors WHERE number > {newest - count}")  # noqa: S608 - a number
    conn.exec_driver_sql(f"UPDATE search_embedding SET embedded_to = {newest - count}")  # noqa: S608 - a number


async def newest_note(database: Database) -> int:
    """The number of the newest note."""
    return await database.read(
        lambda conn: int(conn.exec_driver_sql("SELECT max(number) FROM search_entries").scalar_one())
    )


async def missing(database: Database, newest: int) -> int:
    """How many of the notes up to this one have no vector; others come while it is measured."""

    def count(conn: Connection, table: str) -> int:
        counted = conn.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE number <= {newest}")  # noqa: S608 - of ours
        return int(counted.scalar_one())

    return await database.read(lambda conn: count(conn, "search_entries") - count(conn, "search_vectors"))


async def measure(url: str, options: argparse.Namespace, folder: Path) -> None:
    """Everything, one after the other."""
    scope, key = await prepare(url, options.notes)
    if not options.only_embedding:
        with serving(folder, url, scope, key, {"ONLOOKER_EMBEDDER": "local"}) as server:
            asked = Asked(server)
            async with asked.client() as client:
                print(f"  the first search after a start {await took_ms(asked.search(client)):.0f} ms", flush=True)
            await one_and_many(server, asked)
            await tools_beside_rest(server, asked)
    async with endpoint() as settings:
        with serving(folder, url, scope, key, settings) as server:
            await beside_embedding(
                url,
                scope,
                Asked(server),
                seconds=options.seconds,
                without=options.without,
                to_the_end=options.to_the_end,
            )


def main() -> None:
    """Measure on SQLite, or on the database of a URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--database", metavar="URL")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--without", type=int, default=20_000)
    parser.add_argument("--to-the-end", action="store_true")
    parser.add_argument("--only-embedding", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.database or f"sqlite:///{folder}/recall.db"
        asyncio.run(measure(url, options, folder))


if __name__ == "__main__":
    main()
