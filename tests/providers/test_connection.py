"""A connection to an endpoint: how answers end, and what becomes of the connection."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from onlooker.providers import connection
from onlooker.providers.connection import Connection

LONGEST = 100_000
TIMES = {"connect": 5.0, "read": 5.0}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers each request as the test says; `connections` counts them, `asked` has the requests."""

    port: int
    connections: int
    asked: list[bytes]


@asynccontextmanager
async def server(*answers: bytes | Serve, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Gives these answers in turn; `b""` closes the connection without one."""
    told = Server(0, 0, [])
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                told.asked.append(head + await reader.readexactly(length))
                answer = left.pop(0)
                if not isinstance(answer, bytes):
                    await answer(writer)
                    return
                if not answer:
                    return
                writer.write(answer)
                if b"close" in answer:
                    return
        except asyncio.IncompleteReadError:
            pass  # the client has closed it
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, host, 0)
    told.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield told


@asynccontextmanager
async def client_of(*, read_s: float = 5.0) -> AsyncIterator[Callable[..., Coroutine[Any, Any, httpx.Response]]]:
    transport = Connection(ssl.create_default_context(), longest=LONGEST)
    async with httpx.AsyncClient(transport=transport) as client:

        async def ask(port: int, host: str = "127.0.0.1", **headers: str) -> httpx.Response:
            timeout = httpx.Timeout(read_s, connect=5.0)
            return await client.post(f"http://{host}:{port}/v1/x?y=z", content=b"{}", headers=headers, timeout=timeout)

        yield ask


async def test_one_connection_serves_many_requests() -> None:
    async with server(OK, OK, OK) as told, client_of() as ask:
        for _ in range(3):
            response = await ask(told.port, authorization="Bearer key")
            assert (response.status_code, response.content) == (200, b"ok")
    assert told.connections == 1
    head, _, body = told.asked[0].partition(b"\r\n\r\n")
    first, *lines = head.lower().split(b"\r\n")
    assert first == b"post /v1/x?y=z http/1.1"
    assert f"host: 127.0.0.1:{told.port}".encode() in lines
    assert b"authorization: bearer key" in lines
    assert body == b"{}"


async def test_those_who_ask_at_once_have_it_in_turns() -> None:
    async with server(*[OK] * 5) as told, client_of() as ask:
        responses = await asyncio.gather(*(ask(told.port) for _ in range(5)))
    assert [response.content for response in responses] == [b"ok"] * 5
    assert told.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 22\r\n\r\n" + gzip.compress(b"ok", mtime=0),
    ],
    ids=["chunked", "informational", "until the end", "HTTP/1.0", "compressed"],
)
async def test_an_answer_is_read_to_its_end(answer: bytes) -> None:
    async with server(answer, OK) as told, client_of() as ask:
        response = await ask(told.port)
        assert (response.status_code, response.content) == (200, b"ok")
        assert "link" not in response.headers
        assert (await ask(told.port)).content == b"ok"
    assert told.connections == (2 if b"close" in answer else 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\nconnection: close",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LONGEST + 1),
    ],
    ids=["none", "length", "chunk", "head", "garbage", "upgrade", "endless"],
)
async def test_what_is_no_whole_answer_is_an_error_and_ends_the_connection(answer: bytes) -> None:
    async with server(answer, OK) as told, client_of() as ask:
        with pytest.raises(httpx.TransportError):
            await ask(told.port)
        assert (await ask(told.port)).content == b"ok"
    assert told.connections == 2


async def test_a_connection_that_was_closed_meanwhile_is_opened_anew() -> None:
    closed = asyncio.Event()

    async def then_close(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with server(then_close, OK) as told, client_of() as ask:
        await ask(told.port)
        await closed.wait()
        assert (await ask(told.port)).content == b"ok"
    assert told.connections == 2


async def test_what_was_not_asked_for_is_not_taken_for_the_next_answer() -> None:
    async with server(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", OK) as told, client_of() as ask:
        assert (await ask(told.port)).content == b"ok"
        assert (await ask(told.port)).content == b"ok"


async def test_who_gives_up_leaves_no_answer_for_the_next() -> None:
    asked = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(0.2)
        writer.write(OK.replace(b"ok", b"no"))

    async with server(late, OK) as told, client_of() as ask:
        giving_up = asyncio.create_task(ask(told.port))
        await asked.wait()
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up
        assert (await ask(told.port)).content == b"ok"
    assert told.connections == 2


async def test_an_answer_that_takes_too_long_is_an_error() -> None:
    async def never(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)

    async with server(never) as told, client_of(read_s=0.1) as ask:
        with pytest.raises(httpx.ReadTimeout):
            await ask(told.port)


async def test_an_address_that_does_not_answer_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ADDRESS_TIMEOUT_S", 0.1)
    with socket.socket() as full:
        # Who listens and takes nobody, with its queue full, is an address that does not answer.
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        port = full.getsockname()[1]
        filling = [socket.socket() for _ in range(2)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        loop = asyncio.get_running_loop()
        async with server(OK) as told, client_of() as ask:

            async def found(*_given: object, **_more: object) -> list[tuple[object, ...]]:
                there = [("127.0.0.2", port), ("127.0.0.1", told.port)]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in there]

            monkeypatch.setattr(loop, "getaddrinfo", found)
            assert (await ask(told.port, "model.invalid")).content == b"ok"
        for each in filling:
            each.close()


async def test_a_key_of_two_lines_is_not_sent() -> None:
    async with server(OK) as told, client_of() as ask:
        with pytest.raises(httpx.LocalProtocolError):
            await ask(told.port, authorization="key\r\nx: y")
    assert told.asked == []
