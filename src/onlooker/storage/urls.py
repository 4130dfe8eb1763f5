"""What a database's URL says."""

import re
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from onlooker.domain.errors import Misconfigured

_SEVERAL = re.compile(
    r"(?P<head>postgres(?:ql)?://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<path>/[^?]*)?(?:\?(?P<options>.*))?"
)
"""A URL of several hosts."""


_PASSWORDS = (
    re.compile(r"(?P<before>://[^:/?#]*:).*(?=@)", re.DOTALL),
    re.compile(r"(?P<before>[?&](?:ssl)?password=)[^&]*"),
)


def hide_passwords(url: str) -> str:
    """The URL as it may be shown. Where it is unclear what is the password, more is hidden."""
    for password in _PASSWORDS:
        url = password.sub(r"\g<before>***", url)
    return url


def parse_url(url: str, variable: str = "ONLOOKER_DATABASE_URL") -> URL:
    """A database's URL. Several hosts, as Postgres writes them (`H1:P1,H2:P2`), become its option `host`.

    Raises `Misconfigured`.
    """
    if several := _SEVERAL.fullmatch(url):
        options = "&".join(filter(None, [f"host={quote(several['hosts'], safe='')}", several["options"]]))
        url = f"{several['head']}{several['path'] or '/'}?{options}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise Misconfigured([f"{variable} cannot be read: it is postgresql://USER:PASSWORD@HOST:PORT/NAME"]) from None
    if "@" in (parsed.host or ""):
        raise Misconfigured([f"{variable} cannot be read: in a password @ is written %40"])
    return parsed


def each_host(url: URL) -> list[URL]:
    """The URL once for each of its hosts."""
    named = url.query.get("host")
    if not isinstance(named, str) or "," not in named:
        return [url]
    return [url.update_query_dict({"host": host}) for host in named.split(",")]
