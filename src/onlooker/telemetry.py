"""The log: one line a thing that happened, for a person or for programs.

Lines carry ids, counts and reasons, and never a user's content. It is our own because importing a logging package
that can also draw was a seventh of the time a start takes.
"""

import json
import logging
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from typing import Any, TextIO

request_of_task: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that this task, and each that it begins, works for; every line tells of it."""


@dataclass(slots=True)
class _Sink:
    """Where lines go: the stream of now where none was set."""

    stream: TextIO | None = None
    level: int = logging.INFO


_sink = _Sink()
_writing = threading.Lock()


class Logger:
    """Writes lines. `event` says what happened in words that never change; the rest says to what."""

    def debug(self, event: str, **said: object) -> None:
        """For whoever looks for a fault."""
        _write(logging.DEBUG, event, said)

    def info(self, event: str, **said: object) -> None:
        """As it should be."""
        _write(logging.INFO, event, said)

    def warning(self, event: str, **said: object) -> None:
        """Not as it should be; it may mend itself."""
        _write(logging.WARNING, event, said)

    def error(self, event: str, **said: object) -> None:
        """Somebody has to do something."""
        _write(logging.ERROR, event, said)


log = Logger()


AGAIN_AFTER_S = 10.0
"""What comes and goes is told this often at most, with what becomes of it."""


class Outage:
    """Tells the log of what fails again and again only when that begins and when it is over."""

    def __init__(self, begins: str, ends: str) -> None:
        self._begins = begins
        self._ends = ends
        self._since: float | None = None
        self._is_told = False
        self._told_at = float("-inf")

    @property
    def is_on(self) -> bool:
        """Whether it failed when it was last tried."""
        return self._since is not None

    def failed(self, **said: object) -> None:
        """It failed, or fails still; what is said is logged the first time."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not self._is_told and now >= self._told_at + AGAIN_AFTER_S:
            self._is_told, self._told_at = True, now
            log.warning(self._begins, **said)

    def worked(self) -> None:
        """It worked, as ever or again."""
        if self._since is None:
            return
        if self._is_told:
            log.info(self._ends, after_s=round(time.monotonic() - self._since, 1))
        self._since, self._is_told = None, False


def set_up_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Log to the stream (default: stderr) what is at least of this level. A second call replaces the first."""
    _sink.stream = stream
    _sink.level = logging.getLevelNamesMapping()[level.upper()]


def _write(level: int, event: str, said: dict[str, object]) -> None:
    if level < _sink.level:
        return
    stream = _sink.stream or sys.stderr
    told: dict[str, Any] = {} if (asked := request_of_task.get()) is None else {"request_id": asked}
    told |= said
    name, at = logging.getLevelName(level).lower(), datetime.now(UTC).isoformat().replace("+00:00", "Z")
    # A full disk takes lines of the log, and never the work that they tell of.
    with suppress(OSError), _writing:
        line = _for_person if stream.isatty() else _for_programs
        stream.write(line(name, at, event, told) + "\n")
        stream.flush()


def _for_programs(level: str, at: str, event: str, told: dict[str, Any]) -> str:
    return json.dumps({**told, "event": event, "level": level, "timestamp": at}, ensure_ascii=False, default=str)


def _for_person(level: str, at: str, event: str, told: dict[str, Any]) -> str:
    rest = " ".join(f"{name}={value}" for name, value in told.items())
    return f"{at} [{level:<7}] {event:<40} {rest}".rstrip()


def place_of(error: BaseException) -> list[str]:
    """Where an exception was raised, outermost first, without its message: that may quote what a user wrote."""
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
