"""The log never stands in the way of the work."""

import errno
import io
import json
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from onlooker import telemetry
from onlooker.telemetry import Outage, log, request_of_task, set_up_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    set_up_logging("info")


def test_a_line_is_json_where_nobody_watches() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    log.info("stored", events=3)
    said = json.loads(stream.getvalue())
    assert (said["event"], said["level"], said["events"]) == ("stored", "info", 3)


def test_a_line_is_words_on_a_terminal() -> None:
    stream = Terminal()
    set_up_logging("info", stream=stream)
    log.warning("waiting for the database", url="sqlite:///x.db")
    assert "[warning] waiting for the database" in stream.getvalue()
    assert stream.getvalue().endswith("url=sqlite:///x.db\n")


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    set_up_logging("error", stream=stream)
    log.warning("waiting for the database")
    log.error("defect")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["defect"]


def test_a_line_tells_of_the_request_that_it_was_written_for() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    context = copy_context()
    context.run(request_of_task.set, "r1")
    context.run(log.info, "stored")
    log.info("stored")
    assert [json.loads(line).get("request_id") for line in stream.getvalue().splitlines()] == ["r1", None]


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    set_up_logging("info", stream=FullDisk())
    log.warning("waiting for a part that is away")


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "AGAIN_AFTER_S", 0)
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    outage = Outage("it is away", "it is back")
    outage.worked()
    for _ in range(2):
        outage.failed(reason="first")
        outage.failed(reason="second")
        outage.worked()
        outage.worked()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["it is away", "it is back"] * 2
    assert {line.get("reason") for line in lines} == {"first", None}
    assert lines[1]["after_s"] >= 0


def test_what_comes_and_goes_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    outage = Outage("it is away", "it is back")

    def told() -> list[str]:
        lines = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
        stream.truncate(stream.seek(0))
        return lines

    for _ in range(5):
        outage.failed()
        outage.worked()
    assert told() == ["it is away", "it is back"]
    outage.failed()
    monkeypatch.setattr(telemetry, "AGAIN_AFTER_S", 0)
    outage.failed()  # it lasts
    assert told() == ["it is away"]
    outage.worked()
    assert told() == ["it is back"]
