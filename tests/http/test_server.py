"""Clients that take too long, send too much or go away; and the end of the server itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from onlooker.http.server import Limits
from onlooker.settings import Settings
from served import Site, site_with
from waiting import wait_until

QUICK = Limits(
    head_within_s=0.3, body_within_s=0.6, taken_within_s=0.5, idle_s=1, look_every_s=0.05, connections=20, drain_s=5
)


@pytest_asyncio.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    """A server that loses its patience quickly."""
    async with site_with(settings, limits=QUICK) as served:
        yield served


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest_of(reader: asyncio.StreamReader, within_s: float = 5) -> bytes:
    """Everything until the server ends the connection, in order or not."""
    received = b""
    async with asyncio.timeout(within_s):
        try:
            while part := await reader.read(65536):
                received += part
        except ConnectionResetError:
            pass
    return received


def head(site: Site, *, path: str = "/v1/events?generate=false", length: int, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {site.ours.key}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(site: Site, number: int = 0, path: str = "/v1/events?generate=false") -> bytes:
    body = json.dumps(site.event(number)).encode()
    return head(site, path=path, length=len(body)) + body


async def drip(writer: asyncio.StreamWriter, part: bytes, stop: asyncio.Event) -> None:
    """A little at a time, until the connection is gone."""
    while not stop.is_set() and not writer.is_closing():
        writer.write(part)
        await asyncio.sleep(0.05)


async def cut_off(site: Site, beginning: bytes, part: bytes = b"") -> bytes:
    """What a client gets that goes on with `part` for ever."""
    async with connected(site) as (reader, writer):
        writer.write(beginning)
        stop = asyncio.Event()
        dripping = asyncio.create_task(drip(writer, part, stop))
        try:
            return await rest_of(reader)
        finally:
            stop.set()
            await dripping


@pytest.mark.parametrize(
    "beginning, part",
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"GET /healthz HTTP/1.1\r\n", b""),
        (b"GET /healthz HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET /", b"a"),
    ],
    ids=["silent", "empty lines", "half a head", "header by header", "letter by letter"],
)
async def test_a_head_that_takes_too_long_is_cut_off(site: Site, beginning: bytes, part: bytes) -> None:
    assert await cut_off(site, beginning, part) == b""


async def test_a_second_head_that_takes_too_long_is_cut_off(site: Site) -> None:
    answer = await cut_off(site, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /", b"a")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("part", [b"", b" "], ids=["silent", "dripping"])
async def test_a_body_that_takes_too_long_is_cut_off(site: Site, part: bytes) -> None:
    assert await cut_off(site, head(site, length=100_000), part) == b""
    assert await cut_off(site, b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n", part) != b""


async def test_an_idle_connection_is_closed(site: Site) -> None:
    answer = await cut_off(site, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_slow_but_steady_request_is_answered(site: Site) -> None:
    sent = request(site)
    async with connected(site) as (reader, writer):
        for start in range(0, len(sent), 100):
            writer.write(sent[start : start + 100])
            await writer.drain()
            await asyncio.sleep(0.005)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(
    "headers",
    [
        "".join(f"x-{number}: y\r\n" for number in range(101)),
        "x: " + "y" * 33_000 + "\r\n",
        "x: " + "y" * 1_000_000,
        "".join(f"x-{number}: {'y' * 1000}\r\n" for number in range(60)),
    ],
    ids=["many", "long", "endless", "many and long"],
)
async def test_too_large_a_head_is_refused(site: Site, headers: str) -> None:
    async with connected(site) as (reader, writer):
        writer.write(f"GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
        answer = await rest_of(reader)
    assert answer.startswith(b"HTTP/1.1 431")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "TooLarge"


async def test_an_endless_path_is_refused(site: Site) -> None:
    async with connected(site) as (reader, writer):
        writer.write(b"GET /" + b"a" * 100_000)
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("sent", [b"no HTTP\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /healthz HTTP/1.1\r\na b\r\n\r\n"])
async def test_what_is_not_http_is_told_so(site: Site, sent: bytes) -> None:
    async with connected(site) as (reader, writer):
        writer.write(sent)
        answer = await rest_of(reader)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "InvalidInput"


async def test_a_client_that_does_not_read_is_cut_off(site: Site) -> None:
    """It asks again and again and never takes an answer."""
    async with connected(site) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way to read slowly
        for _ in range(2000):
            if writer.is_closing():
                break
            writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
            await asyncio.sleep(0)
            if not site.server.server_state.connections:
                break
        await wait_until(lambda: not site.server.server_state.connections, 5)
    await wait_until(lambda: not site.server.server_state.tasks, 5)


async def test_one_connection_too_many_is_told_to_come_back(site: Site) -> None:
    async with connected(site):  # one that is inside the limit, silent
        others = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(QUICK.connections)]
        try:
            answer = await rest_of(others[-1][0])
        finally:
            for _, writer in others:
                writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in answer
    await wait_until(lambda: not site.server.server_state.connections)
    async with site.client() as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_requests_in_a_row_on_one_connection_are_answered_in_order(site: Site) -> None:
    async with connected(site) as (reader, writer):
        writer.write(
            b"".join(request(site, number) for number in range(5)) + b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        answers = await rest_of(reader)
    assert [answers.count(b"HTTP/1.1 201"), answers.count(b"HTTP/1.1 404")] == [5, 1]
    assert answers.rindex(b"HTTP/1.1 404") > answers.rindex(b"HTTP/1.1 201")


async def events_stored(site: Site) -> int:
    """Counted by the jobs that they would get."""
    async with site.client(site.ours.key) as client:
        return int((await client.get("/v1/jobs")).json()["total"])


class Held:
    """Holds every transaction of a database until it is let go."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.free = asyncio.Event()
        tx = site.app.database.tx

        async def held(work: Callable[..., Any], *, durable: bool = True, urgent: bool = False) -> Any:
            self.asked += 1
            await self.free.wait()
            return await tx(work, durable=durable, urgent=urgent)

        monkeypatch.setattr(site.app.database, "tx", held)


async def gone(client_task: Awaitable[object]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await client_task


async def test_a_request_whose_client_went_before_its_group_is_not_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.client(site.ours.key) as client:
        assert (await client.post("/v1/events", json=site.event(0))).status_code == 201
    held = Held(site, monkeypatch)
    async with connected(site) as (_, first), connected(site) as (_, second):
        first.write(request(site, 1, "/v1/events"))
        await wait_until(lambda: held.asked == 1)  # its group has begun
        second.write(request(site, 2, "/v1/events"))
        await wait_until(lambda: len(site.server.server_state.tasks) == 2)
    await wait_until(lambda: not site.server.server_state.tasks)
    held.free.set()
    # What had begun was stored, what had not was not; sent again, the first is known and the second is new.
    await wait_until(lambda: _stored(site, 2))
    async with site.client(site.ours.key) as client:
        again = [(await client.post("/v1/events", json=site.event(number))).json() for number in (1, 2)]
    assert ["duplicate" in each for each in again] == [True, False]
    assert await events_stored(site) == 3


async def _stored(site: Site, count: int) -> bool:
    return await events_stored(site) == count


async def test_a_stop_answers_what_was_accepted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site_with(settings) as site, site.client(site.ours.key) as client:
        assert (await client.post("/v1/events", json=site.event(0))).status_code == 201
        held = Held(site, monkeypatch)
        asked = [asyncio.create_task(client.post("/v1/events", json=site.event(number))) for number in range(1, 9)]
        await wait_until(lambda: len(site.server.server_state.tasks) == 8)
        site.server.should_exit = True
        await wait_until(lambda: not site.server.servers[0].is_serving())
        held.free.set()
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.headers["connection"] for answer in answers} == {"close"}


async def test_a_body_that_is_refused_unread_does_not_break_the_connection(site: Site) -> None:
    async with site.client("onl_" + "x" * 43) as client:
        for _ in range(2):
            assert (await client.post("/v1/events", content=b"x" * 300_000)).status_code == 403


async def test_a_client_that_asks_first_is_told_before_it_sends(site: Site) -> None:
    async with connected(site) as (reader, writer):
        writer.write(head(site, length=2_000_000, expect="100-continue"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE"])
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(site: Site, name: str) -> None:
    body = json.dumps(site.event()).encode()
    offer = {"connection": "Upgrade, HTTP2-Settings", name: "h2c", "http2-settings": "AAMAAABkAAQ"}
    async with connected(site) as (reader, writer):
        for _ in range(2):
            writer.write(head(site, length=len(body), **offer) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201")
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))


async def test_httpx_reuses_its_connection(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        for _ in range(3):
            assert (await client.get("/healthz")).status_code == 200
        assert len(site.server.server_state.connections) == 1
