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
from urllib.parse import unquote

import pytest

from onlooker.hooks import client

PAYLOAD = b'{"hook_event_name": "PostToolUse", "tool_name": "Bash", "session_id": "s"}'


@dataclass
class Listener:
    """A server that notes what it is sent and answers as it is told."""

    status: int = 201
    silent: bool = False
    answer: bytes = b"{}"
    asked: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    over: Event = field(default_factory=Event)
    url: str = ""


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.asked.append((self.path, self.headers["Authorization"], body))
            heard.headers.append(dict(self.headers.items()))
            if heard.silent:
                heard.over.wait()
                return
            self.send_response(heard.status)
            self.end_headers()
            self.wfile.write(heard.answer)

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


def run(home: Path, *arguments: str, body: bytes = PAYLOAD, cwd: Path | None = None, **env: str) -> tuple[bytes, float]:
    """Run the client as an agent does; what it printed, and how many seconds it took."""
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-I", "-S", client.__file__, "claude-code", *arguments],
        input=body,
        env={"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(home), **env},
        capture_output=True,
        check=False,
        timeout=20,
        cwd=cwd,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    return ran.stdout, time.monotonic() - began


def hook(home: Path, body: bytes = PAYLOAD, **env: str) -> float:
    """A hook that only captures: it is silent."""
    printed, seconds = run(home, body=body, cwd=None, **env)
    assert printed == b""
    return seconds


def spooled(home: Path) -> list[tuple[dict[str, str], bytes]]:
    """Head and payload of what waits, in order."""
    found = []
    for name in sorted(client.waiting(str(home))):
        head, _, body = (home / "spool" / "events" / name).read_bytes().partition(b"\r\n\r\n")
        found.append((dict(line.partition(": ")[::2] for line in head.decode().split("\r\n")), body))
    return found


def test_a_payload_is_posted_as_it_came_with_the_homes_key(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "key").write_text("onl_secret\n")
    (tmp_path / ".server.runtime.json").write_text(json.dumps({"url": listener.url}))

    hook(tmp_path)

    assert listener.asked == [("/v1/hooks/claude-code", "Bearer onl_secret", PAYLOAD)]
    assert spooled(tmp_path) == []


def test_a_payload_says_when_it_ran_and_where(tmp_path: Path, listener: Listener) -> None:
    folder = tmp_path / "täl ly"
    folder.mkdir()
    before = time.time_ns() // 1_000_000
    run(tmp_path, cwd=folder, ONLOOKER_URL=listener.url)
    (told,) = listener.headers
    assert before <= int(told["x-onlooker-at"]) <= time.time_ns() // 1_000_000
    assert unquote(told["x-onlooker-project"]) == "täl ly"
    assert unquote(told["x-onlooker-place"]) == f"path:{folder}"


def test_the_key_that_was_made_for_hooks_comes_first(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "key").write_text("onl_all\n")
    (tmp_path / "hook.key").write_text("onl_few\n")
    (tmp_path / "hook.url").write_text(listener.url)
    hook(tmp_path)
    assert [key for _, key, _ in listener.asked] == ["Bearer onl_few"]


def test_while_the_server_is_away_payloads_are_kept_in_order_for_the_owner_only(tmp_path: Path) -> None:
    for number in range(3):
        hook(tmp_path, b'{"n": %d}' % number, ONLOOKER_URL="http://127.0.0.1:1")

    assert [body for _, body in spooled(tmp_path)] == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
    assert {head["x-onlooker-agent"] for head, _ in spooled(tmp_path)} == {"claude-code"}
    for path in (tmp_path / "spool" / "events").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_home_that_a_hook_makes_is_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    hook(home, ONLOOKER_URL="http://127.0.0.1:1")
    assert len(spooled(home)) == 1
    for folder in (home, home / "spool", home / "spool" / "events"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_overtakes_what_is_kept(tmp_path: Path, listener: Listener) -> None:
    hook(tmp_path, b'{"n": 0}', ONLOOKER_URL="http://127.0.0.1:1")
    hook(tmp_path, b'{"n": 1}', ONLOOKER_URL=listener.url)
    assert listener.asked == []
    assert [body for _, body in spooled(tmp_path)] == [b'{"n": 0}', b'{"n": 1}']


def test_what_is_kept_can_be_sent_to_a_server_elsewhere_in_order(tmp_path: Path, listener: Listener) -> None:
    for number in range(3):
        hook(tmp_path, b'{"n": %d}' % number, ONLOOKER_URL="http://127.0.0.1:1")
    at = [head["x-onlooker-at"] for head, _ in spooled(tmp_path)]

    run(tmp_path, "--drain", ONLOOKER_URL=listener.url)

    assert [body for _, _, body in listener.asked] == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
    assert [told["x-onlooker-at"] for told in listener.headers] == at
    assert spooled(tmp_path) == []
    assert (tmp_path / "spool" / "blocks").stat().st_size == 0


def test_sending_ends_where_the_server_does_not_take_one(tmp_path: Path, listener: Listener) -> None:
    for number in range(2):
        hook(tmp_path, b'{"n": %d}' % number, ONLOOKER_URL="http://127.0.0.1:1")
    listener.status = 503
    run(tmp_path, "--drain", ONLOOKER_URL=listener.url)
    assert len(listener.asked) == 1
    assert len(spooled(tmp_path)) == 2


@pytest.mark.parametrize(
    "status, kept", [(201, 0), (400, 0), (413, 0), (401, 1), (403, 1), (404, 1), (429, 1), (500, 1), (503, 1)]
)
def test_what_may_be_accepted_later_is_kept(tmp_path: Path, listener: Listener, status: int, kept: int) -> None:
    listener.status = status
    hook(tmp_path, ONLOOKER_URL=listener.url)
    assert len(spooled(tmp_path)) == kept


@pytest.mark.parametrize("arguments, within_s", [((), client.CAPTURE_S), (("--context",), client.CONTEXT_S)])
def test_a_server_that_does_not_answer_costs_the_agent_little_time(
    tmp_path: Path, listener: Listener, arguments: tuple[str, ...], within_s: float
) -> None:
    listener.silent = True
    printed, seconds = run(tmp_path, *arguments, ONLOOKER_URL=listener.url)
    assert printed == b""
    # Beside the wait, the start of a process on a machine that is busy with other tests.
    assert within_s <= seconds < within_s + 2
    assert len(spooled(tmp_path)) == 1


def test_context_is_printed_as_the_server_answers_it(tmp_path: Path, listener: Listener) -> None:
    listener.answer = b'{"hookSpecificOutput":{"hookEventName":"SessionStart","additionalContext":"notes"}}'
    printed, _ = run(tmp_path, "--context", ONLOOKER_URL=listener.url)
    assert printed == listener.answer
    assert listener.asked[0][0] == "/v1/hooks/claude-code/context"


@pytest.mark.parametrize("answer, status", [(b"{}", 200), (b'{"error":"Forbidden"}', 403), (b"oops", 500)])
def test_no_other_answer_is_printed(tmp_path: Path, listener: Listener, answer: bytes, status: int) -> None:
    listener.answer, listener.status = answer, status
    assert run(tmp_path, "--context", ONLOOKER_URL=listener.url)[0] == b""


def test_context_comes_though_the_payload_must_wait(tmp_path: Path, listener: Listener) -> None:
    hook(tmp_path, ONLOOKER_URL="http://127.0.0.1:1")
    listener.answer = b'{"more":1}'
    printed, _ = run(tmp_path, "--context", ONLOOKER_URL=listener.url)
    assert printed == b'{"more":1}'
    assert [path for path, _, _ in listener.asked] == ["/v1/hooks/claude-code/context?store=false"]
    assert len(spooled(tmp_path)) == 2


def test_an_excluded_folder_is_not_told_of(tmp_path: Path, listener: Listener) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    (tmp_path / "excluded").write_text(f"{folder}\n")
    run(tmp_path, cwd=folder, ONLOOKER_URL=listener.url)
    assert listener.asked == []
    assert spooled(tmp_path) == []


def test_an_agent_that_leaves_stdin_open_is_not_waited_for(tmp_path: Path, listener: Listener) -> None:
    env = {"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(tmp_path), "ONLOOKER_URL": listener.url}
    with subprocess.Popen(
        [sys.executable, "-I", "-S", client.__file__, "claude-code"], stdin=subprocess.PIPE, env=env
    ) as process:
        assert process.stdin is not None
        process.stdin.write(PAYLOAD)
        process.stdin.flush()
        assert process.wait(10) == 0
    assert [body for _, _, body in listener.asked] == [PAYLOAD]


def test_of_a_payload_that_is_too_long_the_longest_texts_are_left_out_whole(tmp_path: Path, listener: Listener) -> None:
    payload = {"hook_event_name": "PostToolUse", "tool_input": {"path": "a.py"}, "tool_response": "x" * (9 << 20)}
    hook(tmp_path, json.dumps(payload).encode(), ONLOOKER_URL=listener.url)
    sent = json.loads(listener.asked[0][2])
    assert sent == {**payload, "tool_response": f"[… {9 << 20} characters left out …]"}


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


def test_what_finds_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST_SPOOL", 2 * client.BLOCK)
    for number in range(5):
        client.keep(str(tmp_path), number, "claude-code", "", PAYLOAD)
    assert len(spooled(tmp_path)) == 2
    assert (tmp_path / "spool" / "dropped").stat().st_size == 3


def test_what_is_kept_is_written_byte_for_byte_where_the_system_would_change_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    opened = os.open

    def note(path: str, flag: int, mode: int = 0o777) -> int:
        flags.append(flag)
        return opened(path, flag & ~os.O_DIRECTORY, mode)

    monkeypatch.setattr(client, "BINARY", os.O_DIRECTORY)  # one that means nothing else here
    monkeypatch.setattr(os, "open", note)
    client.keep(str(tmp_path), 1, "claude-code", "x-onlooker-at: 1\r\n", PAYLOAD)
    monkeypatch.undo()
    assert len(spooled(tmp_path)) == 1
    assert [bool(flag & os.O_DIRECTORY) for flag in flags] == [True] * len(flags)


def test_two_hooks_at_the_same_moment_keep_both(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(tmp_path), "ONLOOKER_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-I", "-S", client.__file__, "claude-code"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, env=env) for _ in range(8)]
    for process in processes:
        process.communicate(PAYLOAD)
    assert len(spooled(tmp_path)) == 8
