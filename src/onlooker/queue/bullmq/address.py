"""Where a Redis is and how it is spoken to."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, SSLConnection, parse_url

DEFAULT_PORT = 6379
CONNECT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis. Its `str` names host, port and database, and never the password."""

    host: str
    port: int
    database: int
    secure: bool
    _options: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Of `redis://` or `rediss://` (TLS), with user, password and database. Raises `ValueError` for anything else.

        The query may hold redis-py's options for TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`.
        """
        secure = url.startswith("rediss://")
        if not secure and not url.startswith("redis://"):
            raise ValueError("must begin with redis:// or rediss://")
        if urlsplit(url).hostname is None:
            raise ValueError("must name a host")
        options: dict[str, Any] = dict(parse_url(url))
        options.pop("connection_class", None)
        options.setdefault("port", DEFAULT_PORT)
        address = cls(options["host"], options["port"], int(options.get("db", 0)), secure, options)
        try:
            address.connection()
        except TypeError as error:
            raise ValueError(f"has an option that is not known: {error}") from error
        return address

    def connection(self) -> Connection:
        """A connection that is not open yet, as redis-py makes it."""
        make = SSLConnection if self.secure else Connection
        given = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": CONNECT_TIMEOUT_S, **self._options}
        return make(**{**given, "protocol": 2, "client_name": "onlooker"})

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"
