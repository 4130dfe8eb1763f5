"""The one HTTP client of all model providers. It is made at the first call, so that a start does not wait for it."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.request import getproxies

from onlooker.domain.errors import BadSettings, Busy
from onlooker.providers.wire import endpoint_of

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

    import httpx

CONNECT_TIMEOUT_S = 10.0
LONGEST_BODY = 8 * 1024 * 1024
"""An answer of so many bytes is none."""

_HEADERS = {"content-type": "application/json", "accept": "application/json"}

_OWN_MACHINE = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""Not asked through a proxy."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response, read to its end. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Honours HTTP(S)_PROXY, NO_PROXY and SSL_CERT_FILE; `ca_file` is trusted instead of the well-known authorities.

    Redirects are not followed: a key is not sent on to where somebody points.
    """

    def __init__(self, *, connections: int, ca_file: str = "") -> None:
        self._most = connections
        self._ca_file = ca_file
        self._connections: list[_Connection] = []
        self._trusted: ssl.SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> Response:
        """Raises `Busy` when no whole answer comes, `BadSettings` for a URL that cannot be asked."""
        import httpx

        connection = self._choose()
        connection.running += 1
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        try:
            # As `client.stream` does it, but for what it merges anew into each request.
            request = httpx.Request(
                "POST",
                _parsed(url),
                headers={**connection.headers, **headers},
                content=content,
                extensions={"timeout": timeout.as_dict()},
            )
            response = await connection.client.send(request, stream=True)
            try:
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > LONGEST_BODY:
                        raise Busy(f"{endpoint_of(url)}: the answer has no end")
                return Response(response.status_code, _headers_of(response), bytes(received))
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise Busy(f"{endpoint_of(url)}: no answer within {timeout_s:g} s") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise BadSettings(f"{endpoint_of(url)}: the base URL cannot be asked") from error
        except httpx.RequestError as error:
            raise Busy(f"{endpoint_of(url)}: {_said(error)}") from error
        finally:
            connection.running -= 1

    async def close(self) -> None:
        """Close its connections. Again: nothing."""
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.client.aclose()

    def _choose(self) -> "_Connection":
        """One that is free, the first of them, so that few are kept; else a new one."""
        free = next((each for each in self._connections if not each.running), None)
        if free is not None:
            return free
        if len(self._connections) < self._most:
            self._connections.append(self._open())
            return self._connections[-1]
        return min(self._connections, key=lambda each: each.running)

    def _open(self) -> "_Connection":
        import httpx

        from onlooker.providers.connection import Connection

        if self._trusted is None:
            self._trusted = (
                ssl.create_default_context(cafile=self._ca_file) if self._ca_file else httpx.create_ssl_context()
            )
        direct = Connection(self._trusted, longest=LONGEST_BODY)
        client = httpx.AsyncClient(
            # None is httpx's own, which asks the proxies that the environment names.
            transport=None if getproxies() else direct,
            verify=self._trusted,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            mounts=dict.fromkeys(_OWN_MACHINE, direct),
            headers=_HEADERS,
            cookies=_no_cookies(),
        )
        return _Connection(client, dict(client.headers))


@dataclass(slots=True)
class _Connection:
    """A client with one connection, and how many calls use it or wait for it.

    httpx looks at every connection of a client for each other one of them, at each request: with 50 in one client that
    took as long as all else that a call costs us.
    """

    client: "httpx.AsyncClient"
    headers: Mapping[str, str]
    running: int = 0


@lru_cache(maxsize=64)
def _parsed(url: str) -> "httpx.URL":
    """A URL, of which an endpoint has one or two."""
    import httpx

    return httpx.URL(url)


def _no_cookies() -> "CookieJar":
    """A jar that keeps none: to look for them in each answer costs a tenth of the call."""
    from http.cookiejar import CookieJar

    class NoCookies(CookieJar):
        def extract_cookies(self, response: object, request: object) -> None:
            pass

    return NoCookies()


def _headers_of(response: "httpx.Response") -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}


def _said(error: BaseException) -> str:
    """What went wrong with a connection, by the error's class: its text may quote a proxy's password."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted"
        cause = cause.__cause__ or cause.__context__
    return f"no answer ({type(error).__name__})"
