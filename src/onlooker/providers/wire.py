"""What differs between model APIs: how a prompt is asked, how an answer is read, how an error is told.

A wire makes requests and reads responses and does nothing else; `model` sends them, and `classify` knows what errors
mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from onlooker.domain.models import NO_USAGE, Usage
from onlooker.providers.prompt import Form, Prompt

MAX_OUTPUT_TOKENS = 8_192
"""The longest answer. Of models that think, thinking counts too."""


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"
    LENGTH = "length"
    REFUSED = "refused"
    TOO_LONG = "too-long"
    """The input filled the model's context."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer that could not be used, and what is said about it: the repair round."""

    answer: str
    complaint: str


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. `headers` hold the key: never to be shown."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `data` where the API gives it apart, else `text`. `error` is an error object in the place of one."""

    text: str = ""
    data: Any = None
    stop: Stop = Stop.END
    usage: Usage = NO_USAGE
    model: str | None = None
    error: Mapping[str, Any] | None = None


class Wire(Protocol):
    """One API of one endpoint."""

    name: str
    model: str
    endpoint: str

    def request(self, prompt: Prompt, form: Form, turns: Sequence[Turn] = ()) -> Request:
        """The request that asks for an answer in this form."""
        ...

    def read(self, body: Mapping[str, Any]) -> Reply:
        """The answer in the body of a 200. Never raises: what is not there is empty."""
        ...

    def adapts(self, parameters: frozenset[str]) -> bool:
        """Whether the next request will be another one, since the endpoint does not know one of these parameters."""
        ...


def url_of(base_url: str, default_path: str, path: str) -> str:
    """The URL of a call: `path` below the base, whose own path is `default_path` where it gives none."""
    base = base_url.rstrip("/")
    return f"{base}{'' if urlsplit(base).path else default_path}{path}"


def endpoint_of(base_url: str) -> str:
    """Host and port, to be shown: what a URL may hold beside them is nobody's business."""
    parts = urlsplit(base_url)
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


def is_loopback(base_url: str) -> bool:
    """Whether an endpoint runs on this machine: a model of one's own, which serves few calls at a time."""
    host = _host(urlsplit(base_url))
    return host in {"localhost", "::1"} or host.startswith("127.") or host.endswith(".localhost")


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").lower()


def count(members: Any, name: str) -> int:
    """A count out of a usage object; 0 for what is no count."""
    value = members.get(name) if isinstance(members, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def first_of(value: Any) -> Mapping[str, Any]:
    """The first object of a list, else an empty one."""
    return mapping(value[0]) if isinstance(value, list) and value else {}


def text_or(value: Any, default: str | None) -> str | None:
    return value if isinstance(value, str) and value else default
