"""Logging set-up. Logs carry ids, counts and reasons, and never a user's content."""

import io
import logging
import sys
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from typing import TextIO, cast

import structlog


def set_up_logging(level: str, *, stream: TextIO = sys.stderr) -> None:
    """Log to the stream: lines for a person on a terminal, JSON elsewhere. A second call replaces the first."""
    person = stream.isatty()
    renderer = structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )


class _Unfailing(io.TextIOBase):
    """A stream that loses what it cannot write: a full disk takes lines of the log, and never the work they tell of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def place_of(error: BaseException) -> list[str]:
    """Where an exception was raised, outermost first, without its message: that may quote what a user wrote."""
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
