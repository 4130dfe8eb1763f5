"""A connection to a model's endpoint, which httpx is given in place of its own.

httpx's own takes several times as long over a call: its parser is written in Python, and each read and write passes
through a pool and a layer for other event loops. Here the parser of our server reads an answer as it comes. This knows
no proxies: where one is to be asked httpx's own does it.
"""

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Sequence
from socket import IPPROTO_TCP, SOCK_STREAM, TCP_NODELAY, socket
from typing import Any

import httptools
import httpx

ADDRESS_TIMEOUT_S = 2.0
"""How long an address of a host is tried while there is another: one of its two kinds may lead nowhere."""

_PORTS = {"http": 80, "https": 443}
_INFORMATIONAL = range(100, 200)
_NOT_IN_A_HEADER = frozenset(b"\r\n\0")
_SAY_WHERE_A_BODY_ENDS = frozenset((b"content-length", b"transfer-encoding"))


class Connection(httpx.AsyncBaseTransport):
    """HTTP/1.1 to one origin, a request at a time; opened for the first one, and anew where it was closed since.

    A request's `connect` time is for opening it, `read` for the whole answer. What is longer than `longest` bytes is no
    answer.
    """

    def __init__(self, trusted: ssl.SSLContext, *, longest: int) -> None:
        self._trusted = trusted
        self._longest = longest
        self._turn = asyncio.Lock()
        self._line: _Line | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`. The response was read to its end."""
        times = request.extensions["timeout"]
        sent = _written(request)
        async with self._turn:
            line = self._line
            if line is None or line.was_closed():
                line = self._line = await self._open(request.url, times["connect"])
            try:
                async with asyncio.timeout(times["read"]):
                    return await line.ask(sent)
            except TimeoutError as error:
                raise httpx.ReadTimeout("no whole answer in time") from error

    async def aclose(self) -> None:
        """See `httpx.AsyncBaseTransport`."""
        if self._line is not None:
            self._line.close()
            await self._line.gone.wait()

    async def _open(self, url: httpx.URL, timeout_s: float) -> "_Line":
        if url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol("neither http nor https")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect(url)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpx.ConnectError("no connection") from error

    async def _connect(self, url: httpx.URL) -> "_Line":
        loop = asyncio.get_running_loop()
        host = url.raw_host.decode("ascii")
        addresses = await loop.getaddrinfo(host, url.port or _PORTS[url.scheme], type=SOCK_STREAM)
        connected = await _first_connected(addresses)
        tls, name = (self._trusted, host) if url.scheme == "https" else (None, None)
        _, line = await loop.create_connection(
            lambda: _Line(self._longest), sock=connected, ssl=tls, server_hostname=name
        )
        return line


class _Line(asyncio.Protocol):
    """A connection that is open: what is asked and what comes back."""

    def __init__(self, longest: int) -> None:
        self.is_over = False
        self.gone = asyncio.Event()
        self._longest = longest
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._has_head = False
        self._size = 0

    async def ask(self, sent: bytes) -> httpx.Response:
        """Send a request and return its response. Whatever keeps it from being read to its end ends the connection."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._body, self._has_head, self._size = [], [], False, 0
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(sent)
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None

    def was_closed(self) -> bool:
        """Whether nothing can be asked any more. Between two requests there is only its end to be read."""
        if not self.is_over:
            # The event loop may not have come to it yet.
            self.is_over = _is_readable(self._transport.get_extra_info("socket"))
            if self.is_over:
                self.close()
        return self.is_over

    def close(self) -> None:
        """End it at once. Again: nothing."""
        self.is_over = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a `Transport`

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._size += len(data)
        if self._answer is None or self._answer.done():
            self.close()
        elif self._size > self._longest:
            self._fail(httpx.ReadError("the answer has no end"))
        else:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._fail(httpx.RemoteProtocolError("the answer is no HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. The end of the connection may be that of the body."""
        self.is_over = True
        self.gone.set()
        is_body_whole = self._has_head and not any(name.lower() in _SAY_WHERE_A_BODY_ENDS for name, _ in self._headers)
        if exc is None and is_body_whole:
            self._finish()
        else:
            self._fail(httpx.ReadError("the connection was lost"))

    def on_message_begin(self) -> None:
        """See `httptools`. What follows an answer was not asked for."""
        if self._answer is None or self._answer.done():
            self._headers, self._body = [], []
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._has_head = self._parser.get_status_code() not in _INFORMATIONAL

    def on_body(self, chunk: bytes) -> None:
        """See `httptools`."""
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        """See `httptools`. After an informational response the one that was asked for is still to come."""
        if self._has_head:
            self.is_over |= not self._parser.should_keep_alive()
            self._finish()
        else:
            self._headers = []

    def _finish(self) -> None:
        if self._answer is not None and not self._answer.done():
            response = httpx.Response(self._parser.get_status_code(), headers=self._headers, stream=_Chunks(self._body))
            self._answer.set_result(response)

    def _fail(self, error: httpx.TransportError) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class _Chunks(httpx.AsyncByteStream):
    """A body as it came: in parts, so that one that is compressed is not unpacked all at once."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def _is_readable(opened: socket) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([opened], [], [], 0)[0])
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))


async def _first_connected(addresses: Sequence[tuple[Any, ...]]) -> socket:
    """A socket to the first of a host's addresses that takes it. Raises what the last one raised."""
    last = len(addresses) - 1
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        opened = socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            opened.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            async with asyncio.timeout(None if place == last else ADDRESS_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(opened, address)
        except BaseException as error:
            opened.close()
            if place == last or not isinstance(error, OSError):
                raise
        else:
            return opened
    raise OSError("the host has no address")


def _written(request: httpx.Request) -> bytes:
    """A request as it is sent. Raises `httpx.LocalProtocolError` for a header that would begin another one."""
    headers = request.headers.raw
    if any(not _NOT_IN_A_HEADER.isdisjoint(value) for _, value in headers):
        raise httpx.LocalProtocolError("a header has more than one line")
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (
        request.method.encode("ascii"),
        request.url.raw_path,
        lines,
        request.content,
    )
