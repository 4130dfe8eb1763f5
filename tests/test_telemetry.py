"""The log never stands in the way of the work."""

import errno
import io
import json
from collections.abc import Iterator

import pytest
import structlog

from onlooker.telemetry import set_up_logging


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_line_is_json_where_nobody_watches() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    structlog.get_logger().info("stored", events=3)
    assert json.loads(stream.getvalue())["events"] == 3


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    set_up_logging("info", stream=FullDisk())
    structlog.get_logger().warning("waiting for a part that is away")
