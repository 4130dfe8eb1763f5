"""The hook client: delivers, or keeps for later, and never troubles the agent."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from onlooker.hooks import client

PAYLOAD = b'{"hook_event_name": "PostToolUse", "tool_name": "Bash", "session_id": "s"}'


@dataclass
class Listener:
    """A server that notes what it is sent and answers as it is told."""

    status: int = 201
    silent: bool = False
    asked: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    over: Event = field(default_factory=Event)
    url: str = ""


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.asked.append((self.path, self.headers["Authorization"], body))
            if heard.silent:
                heard.over.wait()
                return
            self.send_response(heard.status)
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        heard.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield heard
        heard.over.set()
        server.shutdown()
        thread.join()


def hook(home: Path, body: bytes = PAYLOAD, **env: str) -> float:
    """Run the client as an agent does; how many seconds it took. Its silence and exit code are checked."""
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-IS", client.__file__, "claude-code"],
        input=body,
        env={"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(home), **env},
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    return time.monotonic() - began


def spooled(home: Path) -> list[Any]:
    path = home / "spool" / "hooks.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_payload_is_posted_as_it_came_with_the_homes_key(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "key").write_text("onl_secret\n")
    (tmp_path / ".server.runtime.json").write_text(json.dumps({"url": listener.url}))

    hook(tmp_path)

    assert listener.asked == [("/v1/hooks/claude-code", "Bearer onl_secret", PAYLOAD)]
    assert spooled(tmp_path) == []


def test_while_the_server_is_away_payloads_are_kept_in_order_for_the_owner_only(tmp_path: Path) -> None:
    for number in range(3):
        hook(tmp_path, b'{"n": %d}' % number, ONLOOKER_URL="http://127.0.0.1:1")

    assert [json.loads(each["body"]) for each in spooled(tmp_path)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {each["agent"] for each in spooled(tmp_path)} == {"claude-code"}
    assert stat.S_IMODE((tmp_path / "spool" / "hooks.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "status, kept", [(201, 0), (400, 0), (413, 0), (401, 1), (403, 1), (429, 1), (500, 1), (503, 1)]
)
def test_what_may_be_accepted_later_is_kept(tmp_path: Path, listener: Listener, status: int, kept: int) -> None:
    listener.status = status
    hook(tmp_path, ONLOOKER_URL=listener.url)
    assert len(spooled(tmp_path)) == kept


def test_a_server_that_does_not_answer_costs_the_agent_little_time(tmp_path: Path, listener: Listener) -> None:
    listener.silent = True
    assert hook(tmp_path, ONLOOKER_URL=listener.url) < client.TIMEOUT_S + 2
    assert len(spooled(tmp_path)) == 1


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"not json", b"{" * 100_000])
def test_no_payload_makes_it_fail(tmp_path: Path, body: bytes) -> None:
    hook(tmp_path, body, ONLOOKER_URL="http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "http://[", "http://127.0.0.1:99999999", "ftp://x"])
def test_no_address_makes_it_fail(tmp_path: Path, url: str) -> None:
    hook(tmp_path, ONLOOKER_URL=url)
    assert len(spooled(tmp_path)) == 1


def test_a_home_that_cannot_be_written_makes_it_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hook(tmp_path / "file" / "home", ONLOOKER_URL="http://127.0.0.1:1")


def test_the_spool_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST_SPOOL", 10)
    for _ in range(3):
        client.spool(tmp_path, "claude-code", PAYLOAD)
    assert len(spooled(tmp_path)) == 1
