"""Where a Redis is and how it is spoken to."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, SSLConnection, parse_url

DEFAULT_PORT = 6379
CONNECT_TIMEOUT_S = 2.0

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Options that name a file."""


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
        split = urlsplit(url)
        try:
            port = split.port or DEFAULT_PORT
        except ValueError:
            # Not what urlsplit says of it: that may be a part of the password.
            raise ValueError(
                "has no port that can be read; in a password / is written %2F, # %23, ? %3F and @ %40"
            ) from None
        if split.hostname is None:
            raise ValueError("must name a host")
        if not re.fullmatch(r"/?\d*", split.path):
            raise ValueError("must end with the number of a database, as in redis://HOST:6379/0")
        options: dict[str, Any] = {**parse_url(url), "port": port}
        options.pop("connection_class", None)
        for name in FILES:
            if name in options and not Path(options[name]).is_file():
                raise ValueError(f"names a file in {name} that is not there: {options[name]}")
        address = cls(options["host"], port, int(options.get("db", 0)), secure, options)
        try:
            address.connection()
        except TypeError as error:
            unknown = re.search(r"'(\w+)'", str(error))
            raise ValueError(f"has an option that is not known: {unknown[1] if unknown else error}") from None
        return address

    def connection(self) -> Connection:
        """A connection that is not open yet, as redis-py makes it."""
        make = SSLConnection if self.secure else Connection
        given = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": CONNECT_TIMEOUT_S, **self._options}
        return make(**{**given, "protocol": 2, "client_name": "onlooker"})

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"
