"""A model server on loopback that speaks Anthropic's, OpenAI's and Gemini's API on one port, driven by a script.

In tests `model_server()` runs it in a thread. As a process of its own it is `python tests/model_server.py --port 0`; it
prints its URL, and `POST /_control` with `{"script": […], "down": true, …}` steers it as the attributes do,
`GET /_control` tells what was asked of it.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, Literal

from model_wires import (
    Api,
    Asked,
    Say,
    answer_body,
    api_of,
    error_body,
    limit_headers,
    observe,
    read_request,
)
from onlooker.domain.tokens import estimate_tokens

LOOPBACK = "127.0.0.1"
_OK = 200
_ENDLESS = b"x" * 65_536
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


class ModelServer:
    """Answers with what `say` put into its script, in order; when that is empty, as `otherwise` says.

    `down`: every call gets a 503 ("status"), or its connection is reset ("reset"). `refuses_structured`: requests
    with a schema get a 400, as old endpoints give it. `key`: others get a 401. `requests_a_second`: more get a 429
    with the time to wait. `delay_s` is what each call takes. `asked` keeps what came, in order of arrival, `at_once`
    how many calls ran then; `refused` counts those that were turned away.
    """

    def __init__(self, scheme: str = "http") -> None:
        self.scheme = scheme
        self.script: deque[Say] = deque()
        self.otherwise: Callable[[Asked], Say] = observe
        self.asked: list[Asked] = []
        self.down: Literal["", "status", "reset"] = ""
        self.refuses_structured = False
        self.key: str | None = None
        self.requests_a_second: float | None = None
        self.delay_s = 0.0
        self.running = 0
        self.most_at_once = 0
        self.refused = 0
        self.at_once: list[int] = []
        self.port = 0
        self._allowed_at = 0.0
        self._prefixes: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{LOOPBACK}:{self.port}"

    def base_url(self, api: Api) -> str:
        """What the provider's base URL is set to."""
        return f"{self.url}/v1" if api == "openai" else self.url

    def say(self, *answers: Say) -> None:
        """Answer the next calls so."""
        self.script.extend(answers)

    def totals(self) -> dict[str, Any]:
        """What was asked, in numbers."""
        tokens = sum(estimate_tokens(asked.system + asked.prompt) for asked in self.asked)
        return {
            "calls": len(self.asked), "tokens": tokens, "refused": self.refused, "most_at_once": self.most_at_once,
            "events": sum(len(asked.events) for asked in self.asked),
        }  # fmt: skip

    def control(self, orders: Mapping[str, Any]) -> None:
        """Steer it by JSON: any of its attributes; `script` is a list of what `Say` takes."""
        for name, value in orders.items():
            if name == "script":
                self.script = deque(_say_of(each) for each in value)
            elif name in {"down", "refuses_structured", "key", "requests_a_second", "delay_s"}:
                setattr(self, name, value)
            else:
                raise ValueError(name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def stop(self) -> None:
        for task in (*self._tasks,):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection is over."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        request_line, *lines = head.split("\r\n")
        method, path, _ = request_line.split(" ")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        path = path.partition("?")[0]
        if path == "/_control":
            if method == "POST":
                self.control(json.loads(raw))
            return await _send(writer, _OK, self.totals())
        return await self._answer(path, headers, raw, writer)

    async def _answer(self, path: str, headers: Mapping[str, str], raw: bytes, writer: asyncio.StreamWriter) -> bool:
        api = api_of(path)
        if api is None:
            return await _send(writer, 404, {"error": {"message": "no such path", "code": "not_found"}})
        if self.down:
            self.refused += 1
            if self.down == "reset":
                return _reset(writer)
            return await _send(writer, 503, error_body(api, Say(status=503)))
        try:
            asked = read_request(api, path, headers, raw, time.time())
        except (ValueError, KeyError, TypeError) as error:
            return await _send(writer, 400, error_body(api, Say(status=400, message=f"malformed: {error!r}")))
        refusal = self._refusal(asked)
        if refusal is not None:
            self.refused += 1
            return await _send(writer, refusal.status, error_body(api, refusal), refusal.headers)
        self.asked.append(asked)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self.at_once.append(self.running)
        try:
            say = self.script.popleft() if self.script else self.otherwise(asked)
            await asyncio.sleep(self.delay_s + say.delay_s)
            return await self._say(asked, say, writer)
        finally:
            self.running -= 1

    def _refusal(self, asked: Asked) -> Say | None:
        """What is refused before a model sees it, and how."""
        if self.key is not None and asked.key != self.key:
            code = {"openai": "invalid_api_key", "gemini": "API_KEY_INVALID"}.get(asked.api)
            return Say(status=400 if asked.api == "gemini" else 401, code=code)
        if self.refuses_structured and asked.structured:
            param = "response_format" if asked.api == "openai" else None
            return Say(status=400, param=param, message="this model does not support structured output")
        if self.requests_a_second:
            now = time.monotonic()
            if now < self._allowed_at:
                wait_s = self._allowed_at - now
                return Say(
                    status=429, code="rate_limit_exceeded" if asked.api == "openai" else None,
                    headers={"retry-after": f"{wait_s:.3f}", **_limits(asked.api, 0, wait_s)},
                )  # fmt: skip
            self._allowed_at = now + 1 / self.requests_a_second
        return None

    async def _say(self, asked: Asked, say: Say, writer: asyncio.StreamWriter) -> bool:
        if say.broken == "reset":
            return _reset(writer)
        if say.broken == "garbage":
            writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            await writer.drain()
            return False
        if say.broken == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
            while True:
                writer.write(_ENDLESS)
                await writer.drain()
        if say.broken == "not-json":
            return await _send(writer, say.status, b"<html>Bad gateway</html>", say.headers)
        if say.status >= 400:
            return await _send(writer, say.status, error_body(asked.api, say), say.headers)
        cached = estimate_tokens(asked.system) if asked.system in self._prefixes else 0
        self._prefixes.add(asked.system)
        body = answer_body(asked, say, cached)
        if say.broken == "half":
            data = json.dumps(body).encode()
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data[: len(data) // 2])
            await writer.drain()
            return False
        return await _send(writer, say.status, body, {**_limits(asked.api, 49, 1), **say.headers})


def _limits(api: Api, remaining: int, reset_s: float) -> dict[str, str]:
    reset_at = datetime.now(UTC) + timedelta(seconds=reset_s)
    return limit_headers(api, remaining, reset_s, reset_at.isoformat().replace("+00:00", "Z"))


def _say_of(given: Mapping[str, Any]) -> Say:
    """A `Say` from JSON, whose lists are tuples here."""
    made: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) and name != "data" else value for name, value in given.items()
    }
    return Say(**made)


async def _send(writer: asyncio.StreamWriter, status: int, body: Any, headers: Mapping[str, str] | None = None) -> bool:
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        f"date: {formatdate(usegmt=True)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """End the connection with a RST instead of an answer."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


@contextmanager
def model_server(
    *answers: Say, otherwise: Callable[[Asked], Say] = observe, tls: ssl.SSLContext | None = None
) -> Iterator[ModelServer]:
    """A server that answers, in a thread of its own; its attributes may be changed while it runs."""
    server = ModelServer("http" if tls is None else "https")
    server.say(*answers)
    server.otherwise = otherwise
    began, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        listener = await asyncio.start_server(server.serve, LOOPBACK, 0, limit=1 << 24, ssl=tls)
        server.port = listener.sockets[0].getsockname()[1]
        began.set()
        async with listener:
            await stop.wait()
            await server.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="model-server")
    thread.start()
    began.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _run(port: int, orders: Mapping[str, Any]) -> None:
    server = ModelServer()
    server.control(orders)
    listener = await asyncio.start_server(server.serve, LOOPBACK, port, limit=1 << 24)
    server.port = listener.sockets[0].getsockname()[1]
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    async with listener:
        await listener.serve_forever()


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--orders", default="{}", help="JSON, as POST /_control takes it")
    given = parser.parse_args(None if arguments is None else list(arguments))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(given.port, json.loads(given.orders)))


if __name__ == "__main__":
    main()
