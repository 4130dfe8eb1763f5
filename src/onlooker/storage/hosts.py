"""A Postgres on several hosts, of which one takes writes at a time: they are asked one after the other."""

from collections.abc import Sequence
from typing import Any

import asyncpg


class Hosts:
    """Connects to the host that takes calls: the one that did last is asked first. `variable` names them."""

    def __init__(self, dsns: Sequence[str], variable: str) -> None:
        self.variable = variable
        self._dsns = dsns
        self._last = 0

    async def connect(self, *, timeout_s: float, **given: Any) -> Any:
        """A connection. The time is shared between the hosts, so that one that is gone without a word costs its part.

        Raises what the driver does for the host that was asked last; `ConnectionError` for one that is a standby where
        `target_session_attrs` asks for another kind.
        """
        error: Exception = ConnectionError("no host is named")
        for step in range(len(self._dsns)):
            number = (self._last + step) % len(self._dsns)
            try:
                connection = await asyncpg.connect(self._dsns[number], timeout=timeout_s / len(self._dsns), **given)
            except asyncpg.TargetServerAttributeNotMatched:
                error = ConnectionError("the server is a standby")
            except (OSError, TimeoutError, asyncpg.CannotConnectNowError) as refusal:
                error = refusal
            else:
                self._last = number
                return connection
        raise error
