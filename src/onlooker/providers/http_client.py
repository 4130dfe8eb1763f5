"""The one HTTP client of all model providers. It is made at the first call, so that a start does not wait for it."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from onlooker.domain.errors import BadSettings, Busy
from onlooker.providers.wire import endpoint_of

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
LONGEST_BODY = 8 * 1024 * 1024
"""An answer of so many bytes is none."""

CONNECTIONS_OF_A_POOL = 8
"""httpx looks at every connection of a pool for each other one of them, at each request: with 50 in one pool that took
as long as all else that a call costs us."""

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
        self._connections = connections
        self._ca_file = ca_file
        self._pools: list[_Pool] = []

    async def post(self, url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> Response:
        """Raises `Busy` when no whole answer comes, `BadSettings` for a URL that cannot be asked."""
        import httpx

        pool = min(self._open(), key=lambda each: each.running)
        pool.running += 1
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        try:
            async with pool.client.stream(
                "POST", url, headers=dict(headers), content=content, timeout=timeout
            ) as response:
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > LONGEST_BODY:
                        raise Busy(f"{endpoint_of(url)}: the answer has no end")
                return Response(response.status_code, dict(response.headers), bytes(received))
        except httpx.TimeoutException as error:
            raise Busy(f"{endpoint_of(url)}: no answer within {timeout_s:g} s") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise BadSettings(f"{endpoint_of(url)}: the base URL cannot be asked") from error
        except httpx.RequestError as error:
            raise Busy(f"{endpoint_of(url)}: {_said(error)}") from error
        finally:
            pool.running -= 1

    async def close(self) -> None:
        """Close its connections. Again: nothing."""
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.client.aclose()

    def _open(self) -> "list[_Pool]":
        if not self._pools:
            import httpx

            verify = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else httpx.create_ssl_context()
            limits = httpx.Limits(
                max_connections=CONNECTIONS_OF_A_POOL, max_keepalive_connections=CONNECTIONS_OF_A_POOL
            )
            headers = {"content-type": "application/json", "accept": "application/json"}
            for _ in range(ceil(self._connections / CONNECTIONS_OF_A_POOL)):
                client = httpx.AsyncClient(
                    verify=verify, limits=limits, mounts=dict.fromkeys(_OWN_MACHINE), headers=headers
                )
                self._pools.append(_Pool(client))
        return self._pools


@dataclass(slots=True)
class _Pool:
    """Some of the connections, and how many calls use them now."""

    client: "httpx.AsyncClient"
    running: int = 0


def _said(error: BaseException) -> str:
    """What went wrong with a connection, by the error's class: its text may quote a proxy's password."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted"
        cause = cause.__cause__ or cause.__context__
    return f"no answer ({type(error).__name__})"
