"""`onlooker mcp`: the protocol over standard input and output, for agents that start their servers themselves."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from onlooker.domain.errors import Misconfigured, OnlookerError

if TYPE_CHECKING:
    import httpx

PATH = "/v1/mcp"
TIMEOUT_S = 60.0
LONGEST_LINE = 8 * 1_048_576
AT_ONCE = 16
"""Requests that are answered at the same time; more wait in the pipe."""

PARSE_ERROR, INTERNAL_ERROR, METHOD_NOT_FOUND = -32700, -32603, -32601


@click.command("mcp", epilog="Example: onlooker mcp --project tally")
@click.option("--url", help="The server to talk to; without it the one of this home, or its store where none runs.")
@click.option("--key", envvar="ONLOOKER_KEY", help="The key for that server; without it the home's own.")
@click.option("--project", help="The project, by id or name, where a tool's arguments do not say which.")
def mcp(*, url: str | None, key: str | None, project: str | None) -> None:
    """Serve the Model Context Protocol over standard input and output.

    Every message is handed to a running server's /v1/mcp. Where none runs in this home, its store is opened here:
    notes are found all the same, and events wait for the next server.
    """
    asyncio.run(_bridge(url, key, project))


async def _bridge(url: str | None, key: str | None, project: str | None) -> None:
    async with _client(url, key) as client:
        if project is not None:
            client.headers["x-onlooker-project"] = project.encode("ascii", "ignore").decode()
        await Bridge(client).run()


@asynccontextmanager
async def _client(url: str | None, key: str | None) -> "AsyncIterator[httpx.AsyncClient]":
    """A client of the server that was named, else of the home's own, else of its store opened in this process.

    Raises `Misconfigured` where a server is named without a key.
    """
    import httpx

    from onlooker.cli.state import StateFiles
    from onlooker.settings import load_settings

    settings = load_settings()
    if url is None and (settings.home / "hook.url").exists():
        url = (settings.home / "hook.url").read_text(encoding="utf-8").strip()
        key = key or (settings.home / "hook.key").read_text(encoding="utf-8").strip()
    key_file = settings.home / "key"
    if key is None and key_file.exists():
        key = key_file.read_text(encoding="utf-8").strip()
    if url is not None and not key:
        raise Misconfigured(["--url needs a key: give --key or ONLOOKER_KEY"])
    running = StateFiles(settings.home, "server").read()
    ours = running.url if running is not None and running.ready and running.may_run() else None
    if at := url or ours:
        headers = {"authorization": f"Bearer {key}"}
        # A proxy stands between us and other machines only.
        far = url is not None
        async with httpx.AsyncClient(base_url=at, headers=headers, timeout=TIMEOUT_S, trust_env=far) as client:
            yield client
        return
    from onlooker.cli.local import open_local
    from onlooker.mcp_server.endpoint import build_site

    async with open_local() as local:
        key = key or key_file.read_text(encoding="utf-8").strip()
        transport = httpx.ASGITransport(build_site(local.app))
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            base_url="http://127.0.0.1", headers=headers, timeout=TIMEOUT_S, transport=transport
        ) as client:
            yield client


class Bridge:
    """Hands each line of standard input to the server and writes its answer as one line of standard output.

    It knows of the protocol only what a transport must: a message with an id is a request and gets an answer, whatever
    happens, and the version that `initialize` agreed on goes along from then on. A client that first asks whether it
    can do without that handshake is told that there is no such method, and begins with it.
    """

    def __init__(self, client: "httpx.AsyncClient") -> None:
        self._client = client
        self._version: str | None = None
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Serve until standard input ends; what was asked before is still answered."""
        async with asyncio.TaskGroup() as tasks:
            async for line in _lines():
                await self._limit.acquire()
                message = _read(line)
                task = tasks.create_task(self._serve(line, message))
                if isinstance(message, dict) and message.get("method") == "initialize":
                    await task  # what follows it depends on the version that it agrees on

    async def _serve(self, line: bytes, message: Any) -> None:
        try:
            for answer in await self._answers(line, message):
                # In ASCII, which goes out whatever the encoding of the output is, and half a character does too.
                sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
            sys.stdout.flush()
        finally:
            self._limit.release()

    async def _answers(self, line: bytes, message: Any) -> list[Any]:
        import httpx

        if message is None:
            return [_error(None, PARSE_ERROR, "a line is not JSON")]
        request_id = message.get("id") if isinstance(message, dict) and "method" in message else None
        if request_id is not None and message["method"] == "server/discover":
            return [_error(request_id, METHOD_NOT_FOUND, "begin with initialize")]
        try:
            reply = await self._client.post(PATH, content=line, headers=self._headers())
        except (httpx.HTTPError, OnlookerError) as error:
            problem = f"Onlooker does not answer ({type(error).__name__}): start it with `onlooker server start`"
            return [] if request_id is None else [_error(request_id, INTERNAL_ERROR, problem)]
        if not reply.content or request_id is None:
            return []
        try:
            answer = reply.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "jsonrpc" not in answer:
            told = answer.get("message") if isinstance(answer, dict) else reply.reason_phrase
            return [_error(request_id, INTERNAL_ERROR, f"Onlooker answered {reply.status_code}: {told}")]
        if message["method"] == "initialize" and "result" in answer:
            self._version = answer["result"].get("protocolVersion")
        # Of a message that it could not read, the server does not tell the id.
        return [{**answer, "id": request_id}]

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        return headers


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


async def _lines() -> AsyncIterator[bytes]:
    """The lines of standard input that are not empty, read in a thread, which every system can."""
    while line := await asyncio.to_thread(sys.stdin.buffer.readline, LONGEST_LINE):
        if line.strip():
            yield line
